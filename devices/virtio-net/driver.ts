import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { EventTask } from '../../sys/event-task.js';
import { Fd } from '../../sys/fd.js';
import { disposable, Scope } from '../../sys/scope.js';
import { trace } from '../../sys/trace.js';
import { workerUrl } from '../../sys/worker-url.js';
import type { MdevInstance, MdevType, VendorDriver, VendorEnvironment } from '../../vfio/driver.js';
import { optionProblem } from '../../vfio/option-problem.js';
import type { NetBackend } from '../net/index.js';
import { PcapFile } from '../net/pcap.js';
import { createTransportState, readTransportVectors } from '../virtio/transport-state.js';
import { VirtioNetDevice } from './device.js';
import type { OpenedPort, OpenPortReply, QueueCommand, QueueTaskData } from './messages.js';
import { netBackends } from './net-backends.js';
import { MTU_RANGE, parseOptions, QUEUES_RANGE, type VirtioNetOptions } from './options.js';
import { queueCountOf } from './queue-layout.js';
import { readCounters, SharedState, shapeOf, type VirtioNetCounters } from './shared-state.js';

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
function tellPath(end: string, refusal: string | undefined, cannotLog: boolean): void {
  if (!trace.vfio.hasSubscribers) return;
  const unlogged = cannotLog ? ', and cannot log the pages that it writes' : '';
  const text =
    refusal === undefined
      ? `virtio-net, net=${end}: the kernel moves its packets (vhost-net)${unlogged}`
      : `virtio-net, net=${end}: this process moves its packets, as vhost-net cannot: ${refusal}`;
  trace.vfio.publish({ what: 'packet path', text });
}

/** Opens the port of a queue task. @throws SysError of the back-end */
function openPort(task: EventTask, { backend, address }: VirtioNetOptions): OpenedPort {
  const reply = task.call({ kind: 'openPort', backend, address } satisfies QueueCommand) as OpenPortReply;
  if ('error' in reply) throw new SysError(reply.error);
  return reply;
}

/** Descriptors that NICs have: the threads of their queue pairs do not see each other's. */
const claimed = new Set<number>();

/** @throws SysError EBUSY if another NIC has a descriptor */
function claimDescriptors(
  { backend, address }: VirtioNetOptions,
  backends: readonly NetBackend[],
): Disposable {
  const wanted = backends.find(({ name }) => name === backend)?.descriptors?.(address) ?? [];
  const taken = wanted.find((fd) => claimed.has(fd));
  if (taken !== undefined) {
    const hint = 'a NIC of this process has this descriptor already';
    throw new SysError({ call: 'open', target: `tap fd ${taken}`, errno: errno.EBUSY, hint });
  }
  for (const fd of wanted) claimed.add(fd);
  return disposable(() => {
    for (const fd of wanted) claimed.delete(fd);
  });
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
 * `net=responder`, `net=tap:NAME`, `net=vhost:NAME`, `net=passt` or `net=passt-socket:PATH`, `mac=`, `mtu=`, `offloads=`, `queues=` and `pcap=`. `create` throws SysError
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
          {
            name: 'queues',
            value: 'N',
            description: `queue pairs, ${QUEUES_RANGE}, by default 1: with more, each has a thread`,
          },
          { name: 'pcap', value: 'FILE', description: 'captures its frames there, for tcpdump and tshark' },
          { name: 'mtu', value: 'BYTES', description: `longest IP packet, ${MTU_RANGE}` },
        ],
      },
    ],
    checkOptions: (_type, options) => optionProblem(() => parseOptions(options, '', backends)),
    create(_type, uuid, options, { eventThread }) {
      const parsed = parseOptions(options, uuid, backends);
      const { mac, isMacGiven, mtu, queues: pairs } = parsed;
      const maxFrame = mtu + FRAME_OVERHEAD;
      using scope = new Scope();
      scope.own(claimDescriptors(parsed, backends));
      const shared = createTransportState(shapeOf(pairs));
      new SharedState(shared, pairs).setLink(true);
      const doorbells = Array.from({ length: queueCountOf(pairs) }, (_, i) =>
        scope.own(Fd.eventfd(`virtio-net doorbell ${i}`)),
      );
      const pin = pairs === 1 ? -1 : scope.own(Fd.eventfd('virtio-net interrupt pin')).number;
      const data = { shared, doorbells: doorbells.map((doorbell) => doorbell.number), maxFrame, pairs, pin };
      const capture = parsed.pcap === undefined ? -1 : scope.own(new PcapFile(parsed.pcap)).fd;
      const ports: OpenedPort[] = [];
      const tasks = Array.from({ length: pairs }, (_, pair) => {
        const own: QueueTaskData = { ...data, pair, capture };
        const task = scope.own(eventThread.run(module, own, pairs === 1 ? 'shared' : 'own'));
        ports.push(openPort(task, parsed));
        return task;
      });
      const kernels = ports.flatMap(({ kernel }) => (kernel === undefined ? [] : [kernel]));
      const ops = new VirtioNetDevice({
        ...{ shared, tasks, doorbells, mac, isMacGiven, mtu, maxFrame },
        offloads: parsed.hasOffloads ? ports.reduce((all, { offloads }) => all & offloads, ~0) : 0,
        lacking: ports.reduce((all, { lacking }) => all | lacking, 0n),
        hasKernelPath: kernels.some(({ refusal }) => refusal === undefined),
        canLog: kernels.every((kernel) => kernel.refusal !== undefined || kernel.canLog),
      });
      if (kernels.length > 0) {
        const refused = kernels.find(({ refusal }) => refusal !== undefined);
        const cannotLog = kernels.some((kernel) => kernel.refusal === undefined && !kernel.canLog);
        tellPath(`${parsed.backend}:${parsed.address}`, refused?.refusal, cannotLog);
      }
      const owned = scope.move();
      return {
        ops,
        mac,
        counters: () => readCounters(shared, pairs),
        vectorCounts: () => readTransportVectors(shared, shapeOf(pairs)),
        [Symbol.dispose]: () => owned[Symbol.dispose](),
      };
    },
  };
}
