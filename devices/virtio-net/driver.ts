import { SysError } from '../../sys/error.js';
import { Fd } from '../../sys/fd.js';
import { Scope } from '../../sys/scope.js';
import { trace } from '../../sys/trace.js';
import { workerUrl } from '../../sys/worker-url.js';
import type { MdevInstance, MdevType, VendorDriver, VendorEnvironment } from '../../vfio/driver.js';
import { optionProblem } from '../../vfio/option-problem.js';
import type { NetBackend } from '../net/index.js';
import { createTransportState, readTransportVectors } from '../virtio/transport-state.js';
import { VirtioNetDevice } from './device.js';
import type { OpenPortReply, QueueCommand, QueueTaskData } from './messages.js';
import { netBackends } from './net-backends.js';
import { MTU_RANGE, parseOptions } from './options.js';
import { readCounters, SHAPE, SharedState, type VirtioNetCounters } from './shared-state.js';
import { QUEUE_COUNT } from './spec.js';

/** Net back-ends, and the event task that can open them. */
export interface NetBackendModule {
  /** By name; the first is the default. */
  readonly backends: readonly NetBackend[];
  /** Module whose `start` is {@link createQueueTask} of the same back-ends. */
  readonly task: URL;
}

/** An instance of a virtio-net device. */
export interface VirtioNetInstance extends MdevInstance {
  /** MAC address, 6 bytes. */
  readonly mac: Uint8Array;
  /** Its statistics since it was created. */
  counters(): VirtioNetCounters;
  /** @see AssignableDevice.vectorCounts */
  vectorCounts(): readonly number[];
}

/** A vendor driver whose instances are {@link VirtioNetInstance}. */
export interface VirtioNetDriver extends VendorDriver {
  create(
    type: MdevType,
    uuid: string,
    options: Readonly<Record<string, string>>,
    environment: VendorEnvironment,
  ): VirtioNetInstance;
}

/** Says who moves the packets of a back-end that has the kernel do it. */
function tellPath(end: string, refusal: string | undefined): void {
  if (!trace.vfio.hasSubscribers) return;
  const text =
    refusal === undefined
      ? `virtio-net, net=${end}: the kernel moves its packets (vhost-net)`
      : `virtio-net, net=${end}: this process moves its packets, as vhost-net cannot: ${refusal}`;
  trace.vfio.publish({ what: 'packet path', text });
}

/** Ethernet header and a VLAN tag, on top of the MTU. */
const FRAME_OVERHEAD = 18;
const MAX_INSTANCES = 32;

const builtIn: NetBackendModule = {
  backends: netBackends,
  task: workerUrl('devices/virtio-net/queue-task.js'),
};

/**
 * The vendor driver `virtio-net`: a virtio 1.x network card on PCI, for which every guest has a driver. Options are
 * `net=responder`, `net=tap:NAME`, `net=vhost:NAME`, `net=passt` or `net=passt-socket:PATH`, `mac=`, `mtu=` and `offloads=`. `create` throws SysError
 * EINVAL for an invalid option, and the error of a back-end that cannot be opened.
 * @param backendModule your own back-ends, which replace the package's
 */
export function createVirtioNetDriver(backendModule: NetBackendModule = builtIn): VirtioNetDriver {
  const { backends, task: module } = backendModule;
  return {
    name: 'virtio-net',
    types: [
      {
        name: 'virtio-net',
        description: `network card, virtio 1.x (net=${backends.map(({ name }) => name).join('|')})`,
        deviceApi: 'vfio-pci',
        maxInstances: MAX_INSTANCES,
        options: [
          {
            name: 'net',
            value: backends.map(({ name }) => name).join('|'),
            description: "where its wire ends, with the back-end's address and options after a colon",
          },
          { name: 'mac', value: 'ADDRESS', description: 'of one station; by default made from the UUID' },
          {
            name: 'offloads',
            value: 'on|off',
            description: 'whether checksums and segments are left to the other side, where the back-end can',
          },
          { name: 'mtu', value: 'BYTES', description: `longest IP packet, ${MTU_RANGE}` },
        ],
      },
    ],
    checkOptions: (_type, options) => optionProblem(() => parseOptions(options, '', backends)),
    create(_type, uuid, options, { eventThread }) {
      const { backend, address, mac, mtu, hasOffloads } = parseOptions(options, uuid, backends);
      const maxFrame = mtu + FRAME_OVERHEAD;
      using scope = new Scope();
      const shared = createTransportState(SHAPE);
      new SharedState(shared).setLink(true);
      const doorbells = Array.from({ length: QUEUE_COUNT }, (_, i) =>
        scope.own(Fd.eventfd(`virtio-net doorbell ${i}`)),
      );
      const data: QueueTaskData = {
        shared,
        doorbells: doorbells.map((doorbell) => doorbell.number),
        maxFrame,
      };
      const task = scope.own(eventThread.run(module, data));
      const reply = task.call({ kind: 'openPort', backend, address } satisfies QueueCommand) as OpenPortReply;
      if ('error' in reply) throw new SysError(reply.error);
      const offloads = hasOffloads ? reply.offloads : 0;
      const { lacking, kernel } = reply;
      const hasKernelPath = kernel !== undefined && kernel.refusal === undefined;
      const port = { offloads, lacking, hasKernelPath };
      const ops = new VirtioNetDevice({ shared, task, doorbells, mac, mtu, maxFrame, ...port });
      if (kernel !== undefined) tellPath(`${backend}:${address}`, kernel.refusal);
      const owned = scope.move();
      return {
        ops,
        mac,
        counters: () => readCounters(shared),
        vectorCounts: () => readTransportVectors(shared, SHAPE),
        [Symbol.dispose]: () => owned[Symbol.dispose](),
      };
    },
  };
}
