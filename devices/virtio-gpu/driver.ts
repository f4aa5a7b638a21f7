import { Fd } from '../../sys/fd.js';
import { Scope } from '../../sys/scope.js';
import { workerUrl } from '../../sys/worker-url.js';
import type { MdevInstance, MdevType, VendorDriver, VendorEnvironment } from '../../vfio/driver.js';
import { optionProblem } from '../../vfio/option-problem.js';
import { createTransportState, readTransportVectors } from '../virtio/transport-state.js';
import type { TurnTaskData } from '../virtio/turn-messages.js';
import { VirtioGpuDevice } from './device.js';
import { parseOptions } from './options.js';
import { readGpuCounters, SHAPE, type VirtioGpuCounters } from './shared-state.js';
import { QUEUE_COUNT } from './spec.js';

/** An instance of a virtio-gpu device. */
export interface VirtioGpuInstance extends MdevInstance {
  /**
   * Tells the guest that a screen has another size, as a window that is resized does: its driver reads the new EDID, and may set that mode.
   * @param head its number, from 0 on
   * @throws SysError ENODEV without that head; RangeError for a size that an EDID cannot tell: 1 to 4095 pixels are
   */
  resize(head: number, width: number, height: number): void;
  /** Its statistics since it was created. */
  counters(): VirtioGpuCounters;
  /** @see AssignableDevice.vectorCounts */
  vectorCounts(): readonly number[];
}

/** A vendor driver whose instances are {@link VirtioGpuInstance}. */
export interface VirtioGpuDriver extends VendorDriver {
  create(
    type: MdevType,
    uuid: string,
    options: Readonly<Record<string, string>>,
    environment: VendorEnvironment,
  ): VirtioGpuInstance;
}

const MAX_INSTANCES = 32;
const builtIn = workerUrl('devices/virtio/turn-task.js');

/**
 * The vendor driver `virtio-gpu`: a display card, virtio 1.x on PCI with its 2D commands, for which every guest has a driver. Options
 * are `heads=`, `width=`, `height=` and `memory=`. `create` throws SysError EINVAL for an invalid option, ENOMEM.
 * @param module of the event task; the package's own if absent
 */
export function createVirtioGpuDriver(module: URL = builtIn): VirtioGpuDriver {
  return {
    name: 'virtio-gpu',
    types: [
      {
        name: 'virtio-gpu',
        description: 'display card with 1 to 16 screens, virtio 1.x (heads=, width=, height=)',
        deviceApi: 'vfio-pci',
        maxInstances: MAX_INSTANCES,
        options: [
          { name: 'heads', value: 'COUNT', description: 'its screens, 1 to 16; by default 1' },
          { name: 'width', value: 'PIXELS', description: 'of each screen, by default 1024' },
          { name: 'height', value: 'PIXELS', description: 'of each screen, by default 768' },
          {
            name: 'memory',
            value: 'MIB',
            description: 'most memory that its pictures take of the host, by default 64',
          },
        ],
      },
    ],
    checkOptions: (of, options) => optionProblem(() => parseOptions(options, of.name)),
    create(of, uuid, options, { eventThread }) {
      const parsed = parseOptions(options, `${of.name} ${uuid}`);
      using scope = new Scope();
      const shared = createTransportState(SHAPE);
      const doorbells = Array.from({ length: QUEUE_COUNT }, (_, queue) =>
        scope.own(Fd.eventfd(`virtio-gpu doorbell ${queue}`)),
      );
      const data: TurnTaskData = {
        shared,
        shape: SHAPE,
        doorbells: doorbells.map(({ number }) => number),
      };
      const task = scope.own(eventThread.run(module, data));
      const ops = scope.own(new VirtioGpuDevice({ shared, task, doorbells, ...parsed }));
      const owned = scope.move();
      return {
        ops,
        resize: (head, xres, yres) => ops.resize(head, { xres, yres }),
        counters: () => readGpuCounters(shared),
        vectorCounts: () => readTransportVectors(shared, SHAPE),
        [Symbol.dispose]: () => owned[Symbol.dispose](),
      };
    },
  };
}
