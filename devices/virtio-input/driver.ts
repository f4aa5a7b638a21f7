import { Fd } from '../../sys/fd.js';
import { Scope } from '../../sys/scope.js';
import { workerUrl } from '../../sys/worker-url.js';
import type { MdevInstance, MdevType, VendorDriver, VendorEnvironment } from '../../vfio/driver.js';
import { optionProblem } from '../../vfio/option-problem.js';
import { createTransportState, readTransportVectors } from '../virtio/transport-state.js';
import type { TurnTaskData } from '../virtio/turn-messages.js';
import { VirtioInputDevice } from './device.js';
import { parseOptions } from './options.js';
import { readInputCounters, SHAPE, type VirtioInputCounters } from './shared-state.js';
import { QUEUE_COUNT } from './spec.js';

/** An instance of a virtio-input device. */
export interface VirtioInputInstance extends MdevInstance {
  /** Lights of a keyboard that its driver has lit: a bit per LED_ of linux/input-event-codes.h. */
  readonly leds: number;
  /** Its statistics since it was created. */
  counters(): VirtioInputCounters;
  /** @see AssignableDevice.vectorCounts */
  vectorCounts(): readonly number[];
  /** @see AssignableDevice.input */
  input: NonNullable<MdevInstance['input']>;
}

/** A vendor driver whose instances are {@link VirtioInputInstance}. */
export interface VirtioInputDriver extends VendorDriver {
  create(
    type: MdevType,
    uuid: string,
    options: Readonly<Record<string, string>>,
    environment: VendorEnvironment,
  ): VirtioInputInstance;
}

const MAX_INSTANCES = 32;
const builtIn = workerUrl('devices/virtio/turn-task.js');

/**
 * The vendor driver `virtio-input`: a keyboard, a tablet with absolute coordinates or a relative mouse, virtio 1.x on PCI. The option
 * `type=` says which; `input` of an instance sends events. `create` throws SysError EINVAL for an invalid option.
 * @param module of the event task; the package's own if absent
 */
export function createVirtioInputDriver(module: URL = builtIn): VirtioInputDriver {
  return {
    name: 'virtio-input',
    types: [
      {
        name: 'virtio-input',
        description: 'keyboard, tablet or mouse, virtio 1.x (type=)',
        deviceApi: 'vfio-pci',
        maxInstances: MAX_INSTANCES,
        options: [
          {
            name: 'type',
            value: 'keyboard|tablet|mouse',
            description: 'what it is, by default a keyboard; a tablet has absolute coordinates',
          },
        ],
      },
    ],
    checkOptions: (of, options) => optionProblem(() => parseOptions(options, of.name)),
    create(of, uuid, options, { eventThread }) {
      const kind = parseOptions(options, `${of.name} ${uuid}`);
      using scope = new Scope();
      const shared = createTransportState(SHAPE);
      const doorbells = Array.from({ length: QUEUE_COUNT }, (_, queue) =>
        scope.own(Fd.eventfd(`virtio-input doorbell ${queue}`)),
      );
      const data: TurnTaskData = {
        shared,
        shape: SHAPE,
        doorbells: doorbells.map(({ number }) => number),
      };
      const task = scope.own(eventThread.run(module, data));
      const ops = new VirtioInputDevice({ shared, task, doorbells, kind, serial: uuid });
      const owned = scope.move();
      return {
        ops,
        get leds() {
          return ops.leds;
        },
        input: (events) => ops.input(events),
        inputKind: kind,
        counters: () => readInputCounters(shared),
        vectorCounts: () => readTransportVectors(shared, SHAPE),
        [Symbol.dispose]: () => owned[Symbol.dispose](),
      };
    },
  };
}
