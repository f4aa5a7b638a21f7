import { SysError } from '../../sys/error.js';
import { Fd } from '../../sys/fd.js';
import { Scope } from '../../sys/scope.js';
import { workerUrl } from '../../sys/worker-url.js';
import type { MdevInstance, MdevType, VendorDriver, VendorEnvironment } from '../../vfio/driver.js';
import { optionProblem } from '../../vfio/option-problem.js';
import { createTransportState, readTransportVectors } from '../virtio/transport-state.js';
import { VirtioBlkDevice } from './device.js';
import type { DiskCommand, DiskTaskData, OpenImageReply } from './messages.js';
import { parseOptions } from './options.js';
import { readDiskCounters, SHAPE, type VirtioBlkCounters } from './shared-state.js';

/** An instance of a virtio-blk device. */
export interface VirtioBlkInstance extends MdevInstance {
  /** Size of the disk in bytes. */
  readonly bytes: number;
  /** Its statistics since it was created. */
  counters(): VirtioBlkCounters;
  /** @see AssignableDevice.vectorCounts */
  vectorCounts(): readonly number[];
}

/** A vendor driver whose instances are {@link VirtioBlkInstance}. */
export interface VirtioBlkDriver extends VendorDriver {
  create(
    type: MdevType,
    uuid: string,
    options: Readonly<Record<string, string>>,
    environment: VendorEnvironment,
  ): VirtioBlkInstance;
}

const MAX_INSTANCES = 32;
const builtIn = workerUrl('devices/virtio-blk/queue-task.js');

/**
 * The vendor driver `virtio-blk`: a virtio 1.x disk on PCI, for which every guest has a driver. Options are `file=`,
 * `format=raw|qcow2`, `readonly=on`, `overlay=`, `backing=` and `serial=`. Each disk has a thread. `create` throws SysError
 * EINVAL for an invalid option or image, EBUSY for an image that another disk uses, and that of a file that cannot be
 * opened.
 * @param module of the event task; the package's own if absent
 */
export function createVirtioBlkDriver(module: URL = builtIn): VirtioBlkDriver {
  return {
    name: 'virtio-blk',
    types: [
      {
        name: 'virtio-blk',
        description: 'disk, virtio 1.x (file=PATH)',
        deviceApi: 'vfio-pci',
        maxInstances: MAX_INSTANCES,
        options: [
          { name: 'file', value: 'PATH', description: 'the disk: a file or a block device' },
          {
            name: 'format',
            value: 'raw|qcow2',
            description: 'of the file; by default qcow2 if its name ends so, else raw',
          },
          { name: 'readonly', value: 'on|off', description: 'whether the guest can only read it' },
          {
            name: 'overlay',
            value: 'PATH',
            description:
              'a qcow2 file for what the guest writes, so that the disk stays as it is; made if absent',
          },
          { name: 'backing', value: 'PATH', description: 'what a qcow2 disk is itself an overlay of' },
          { name: 'serial', value: 'TEXT', description: 'its serial number, 20 characters at most' },
        ],
      },
    ],
    checkOptions: (_type, options) => optionProblem(() => parseOptions(options, '')),
    create(_type, uuid, options, { eventThread }) {
      const { image, serial } = parseOptions(options, uuid);
      using scope = new Scope();
      const shared = createTransportState(SHAPE);
      const doorbell = scope.own(Fd.eventfd('virtio-blk doorbell'));
      const data: DiskTaskData = { shared, doorbell: doorbell.number, serial };
      const task = scope.own(eventThread.run(module, data, 'own'));
      const reply = task.call({ kind: 'openImage', image } satisfies DiskCommand) as OpenImageReply;
      if ('error' in reply) throw new SysError(reply.error);
      const { disk } = reply;
      const ops = new VirtioBlkDevice({ shared, task, doorbell, disk });
      const owned = scope.move();
      return {
        ops,
        bytes: disk.bytes,
        counters: () => readDiskCounters(shared),
        vectorCounts: () => readTransportVectors(shared, SHAPE),
        [Symbol.dispose]: () => owned[Symbol.dispose](),
      };
    },
  };
}
