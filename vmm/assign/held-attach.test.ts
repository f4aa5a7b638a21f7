/** Devices of the kernel that are attached while another thread maps guest memory, with a kernel and a card that are scripts. */
import { expect, test } from 'vitest';
import { PCI_COMMAND } from '../../devices/pci/pci-regs.js';
import { fakeEnvironment } from '../../devices/testing/fake-ports.js';
import { VfioPciFunctions } from '../../devices/vfio-pci/functions.js';
import { createScriptedNic } from '../../devices/vfio-pci/scripted-nic.js';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { InlineEventThread } from '../../sys/inline-event-thread.js';
import { IOCTL_TASK } from '../../sys/ioctl-calls.js';
import { createIoctlTask } from '../../sys/ioctl-task.js';
import { disposable, Scope } from '../../sys/scope.js';
import { Assignment, type VfioInterface } from '../../vfio/assign/index.js';
import type { VfioProvider } from '../../vfio/provider.js';
import type { CdevFile, ContainerFile, DmaMap, GroupFile, IommufdFile } from '../../vfio/uapi.js';
import { pcMemory } from './testing.js';

const RAM = 0x20_0000n;
const IOAS = 3;

/** The maps of one address space, whoever makes them. */
class Kernel {
  readonly maps = new Set<bigint>();
  /** Who asked for what: `*` the other thread. */
  readonly log: string[] = [];
  /** Files that are open. */
  readonly open: string[] = [];
  /** Maps that cannot be made fail so. */
  isFull = false;

  map(iova: bigint, who: string): number {
    this.log.push(`${who}map`);
    if (this.isFull) return -errno.ENOMEM;
    this.maps.add(iova);
    return 0;
  }

  here({ iova }: Pick<DmaMap, 'iova'>): void {
    if (this.map(iova, '') < 0) throw new SysError({ call: 'map', target: 'kernel', errno: errno.ENOMEM });
  }

  unmap(iova: bigint): bigint {
    expect(this.maps.delete(iova)).toBe(true);
    return 0n;
  }
}

const call = ({ iova }: DmaMap) => ({
  ...{ fd: 9, request: 1 },
  argument: new Uint8Array(new BigUint64Array([iova]).buffer),
});

/** A provider with one NIC by each interface, which `waits` to master the bus or not. */
function providerOf(kernel: Kernel, waits: boolean): VfioProvider {
  const file = (target: string) => {
    kernel.open.push(target);
    return { target, ...disposable(() => void kernel.open.splice(kernel.open.indexOf(target), 1)) };
  };
  const container = (): ContainerFile => ({
    ...file('container'),
    getApiVersion: () => 0,
    checkExtension: () => 1,
    setIommu: () => {},
    getIommuInfo: () => expect.unreachable(),
    mapDma: (map) => kernel.here(map),
    mapDmaCall: call,
    unmapDma: ({ iova }) => kernel.unmap(iova),
  });
  const group = (): GroupFile => ({
    ...file('group'),
    getStatus: () => 1,
    setContainer: () => {},
    unsetContainer: () => {},
    getDeviceFd: () => createScriptedNic(),
  });
  const iommufd = (): IommufdFile => ({
    ...file('iommufd'),
    ioasAlloc: () => IOAS,
    ioasMap: (ioas, map) => {
      expect(ioas).toBe(IOAS);
      const { iova } = map as DmaMap;
      kernel.here({ iova });
      return iova;
    },
    ioasMapCall: (ioas, map) => {
      expect(ioas).toBe(IOAS);
      return call(map);
    },
    ioasUnmap: (_ioas, { iova }) => kernel.unmap(iova),
    ioasIovaRanges: () => [],
    destroy: () => {},
  });
  const openCdev = (): CdevFile =>
    Object.assign(createScriptedNic(), { bindIommufd: () => 1, attachIoas: () => {}, detachIoas: () => {} });
  return {
    name: 'script',
    addresses: 'nic',
    matches: (address) => address === 'nic',
    resolve: () => ({
      ...{ name: 'nic', group: 1, cdev: 'vfio0', description: 'a NIC', waitsForMastering: waits },
      ...disposable(() => {}),
    }),
    groups: { openContainer: container, openGroup: group },
    cdevs: { openIommufd: iommufd, openCdev },
  };
}

function bench(scope: Scope, waits = true) {
  const kernel = new Kernel();
  const task = createIoctlTask((_fd, _request, argument) =>
    kernel.map(new BigUint64Array(argument.slice().buffer)[0] as bigint, '*'),
  );
  const eventThread = scope.own(new InlineEventThread(new Map([[IOCTL_TASK.href, task]])));
  const memory = pcMemory(scope, RAM);
  const assignment = scope.own(
    new Assignment({
      memory,
      association: { addFile: () => {}, removeFile: () => {} },
      functions: new VfioPciFunctions(fakeEnvironment()),
      providers: [providerOf(kernel, waits)],
    }),
  );
  return { kernel, eventThread, memory, assignment };
}

const INTERFACES: readonly VfioInterface[] = ['group', 'iommufd'];

test.each(INTERFACES)(
  'a device by %s is attached at once, and masters the bus when memory is mapped',
  (how) => {
    using scope = new Scope();
    const { kernel, eventThread, assignment, memory } = bench(scope);
    const request = { address: 'nic', interface: how };
    const [nic] = assignment.attachAll([request], { mapIn: eventThread });
    const guest = nic?.function as NonNullable<typeof nic>['function'];
    guest.configWrite(PCI_COMMAND, 2, 3); // it decodes
    expect([kernel.log, guest.configRead(PCI_COMMAND, 2)]).toEqual([[], 3]);
    guest.configWrite(PCI_COMMAND, 2, 7);
    expect([kernel.log, guest.configRead(PCI_COMMAND, 2), kernel.maps.size]).toEqual([['*map'], 7, 1]);
    expect(memory.inspect().map(({ dma }) => dma.length)).toEqual([1]);
    eventThread.pump();
    nic?.[Symbol.dispose]();
    expect([kernel.log, kernel.maps.size]).toEqual([['*map'], 0]);
  },
);

test('memory that cannot be mapped keeps a device from the bus, and is an error where the thread is heard', () => {
  using scope = new Scope();
  const { kernel, eventThread, assignment } = bench(scope);
  kernel.isFull = true;
  const [nic] = assignment.attachAll([{ address: 'nic' }], { mapIn: eventThread });
  nic?.function.configWrite(PCI_COMMAND, 4, 0x0000_0007);
  nic?.function.configWrite(PCI_COMMAND, 1, 7);
  expect(nic?.function.configRead(PCI_COMMAND, 2)).toBe(3);
  expect(() => eventThread.pump()).toThrowError('map on kernel: ENOMEM');
  nic?.[Symbol.dispose]();
  expect(kernel.maps.size).toBe(0);
});

test('a device that does not wait, and one that is attached later or alone, has memory mapped before it is open', () => {
  using scope = new Scope();
  const mediated = bench(scope, false);
  mediated.assignment.attachAll([{ address: 'nic' }], { mapIn: mediated.eventThread });
  expect(mediated.kernel.log).toEqual(['map']);
  const alone = bench(scope);
  scope.own(alone.assignment.attach({ address: 'nic' }));
  expect(alone.kernel.log).toEqual(['map']);
  const { kernel, eventThread, assignment } = bench(scope);
  assignment.attachAll([{ address: 'nic', interface: 'iommufd' }], { mapIn: eventThread });
  expect(kernel.log).toEqual([]);
  scope.own(assignment.attach({ address: 'nic', interface: 'iommufd' }));
  expect(kernel.log).toEqual(['*map']);
});

test('a machine that ends while memory is mapped leaves no map, and hears of none', () => {
  using scope = new Scope();
  const { kernel, eventThread, assignment } = bench(scope);
  assignment.attachAll([{ address: 'nic' }], { mapIn: eventThread });
  assignment[Symbol.dispose]();
  eventThread.pump();
  expect([kernel.log, kernel.maps.size]).toEqual([[], 0]);
});

test('a saved function that masters the bus waits for the maps', () => {
  using scope = new Scope();
  const { kernel, eventThread, assignment } = bench(scope);
  const [nic] = assignment.attachAll([{ address: 'nic' }]);
  nic?.function.configWrite(PCI_COMMAND, 2, 7);
  const state = nic?.function.save?.() ?? expect.unreachable();
  nic?.[Symbol.dispose]();
  kernel.log.length = 0;
  const [other] = assignment.attachAll([{ address: 'nic' }], { mapIn: eventThread });
  expect(kernel.log).toEqual([]);
  other?.function.load?.(state);
  expect([kernel.log, kernel.maps.size]).toEqual([['*map'], 1]);
});

test('if the thread cannot begin, none is attached', () => {
  using scope = new Scope();
  const { kernel, assignment } = bench(scope);
  const mapIn = {
    run: () => {
      throw new SysError({ call: 'pthread_create', target: 'thread', errno: errno.EAGAIN });
    },
  };
  expect(() => assignment.attachAll([{ address: 'nic' }], { mapIn })).toThrowError(/EAGAIN/);
  expect([kernel.log, kernel.open]).toEqual([[], []]);
  scope.own(assignment.attach({ address: 'nic' }));
  expect(kernel.log).toEqual(['map']);
});
