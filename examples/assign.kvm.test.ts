/** What tsvisor is for, in one test, by the public entries only; and what an embedder may do at any time. */
import { createAssignment, PolledEventThread, type WiredAssignment } from 'tsvisor/assign';
import {
  ConfigSpace,
  createDebugExit,
  DEBUG_EXIT_PORT,
  PCI_BASE_ADDRESS_0,
  PCI_COMMAND,
  PCI_COMMAND_MEMORY,
  PciRegions,
  RegionOps,
} from 'tsvisor/devices';
import { gpa, Kvm, longModeSregs, longModeTables, Mapping, type Vcpu, type Vm } from 'tsvisor/kvm';
import { RecordingListener } from 'tsvisor/testing';
import {
  type CoreOpenDevice,
  createSharedMemory,
  iova,
  type KvmPointer,
  type VendorDriver,
  VFIO_GROUP_NOTIFY,
  VFIO_GROUP_NOTIFY_SET_KVM,
  type VfioDeviceOps,
} from 'tsvisor/vfio';
import { afterEach, beforeEach, expect, test } from 'vitest';

const PAGE = 4096;
const RAM_BYTES = 16 << 20;
const TABLES = 0x1000n;
const CODE = 0x10_0000n;
const MARK = 0x20_0000;
const BAR = 0xc000_0000;
const WINDOW = { kind: 'mmio', base: BigInt(BAR), bytes: 0x1000_0000n } as const;

/** A card that is one page of memory in BAR 0, and shows what its driver was opened with. */
class Card extends RegionOps implements VfioDeviceOps, Disposable {
  readonly name = 'card';
  readonly memory = createSharedMemory('card', PAGE);
  open: CoreOpenDevice | undefined;
  protected readonly regions = new PciRegions('card', {
    config: {
      create() {
        const config = new ConfigSpace();
        config.allow(PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
        return config;
      },
    },
    bars: [{ index: 0, size: PAGE, memory: this.memory }],
  });

  openDevice(open: CoreOpenDevice): void {
    this.open = open;
    this.regions.resetConfig();
  }
  closeDevice(): void {
    this.open = undefined;
  }
  getIrqInfo(index: number) {
    return { index, flags: 0, count: 0 };
  }
  setIrqs(): void {}
  override reset(): void {}
  [Symbol.dispose](): void {
    this.memory[Symbol.dispose]();
  }
}

let cards: Card[] = [];
const driver: VendorDriver = {
  name: 'card',
  types: [{ name: 'card', description: 'a page', deviceApi: 'vfio-pci', maxInstances: 4 }],
  create() {
    const card = new Card();
    cards.push(card);
    return { ops: card, [Symbol.dispose]: () => card[Symbol.dispose]() };
  },
};

let events: PolledEventThread;
let kvm: Kvm;
let vm: Vm;
let vcpu: Vcpu;
let ram: Mapping;
let assignment: WiredAssignment;
beforeEach(async () => {
  cards = [];
  events = await PolledEventThread.start();
  kvm = Kvm.open();
  vm = kvm.createVm();
  vm.createIrqchip();
  vcpu = vm.createVcpu(0);
  ram = Mapping.huge(RAM_BYTES);
  assignment = createAssignment({ vm, eventThread: events, windows: [WINDOW] });
  assignment.ports.memoryMap.addRam(gpa(0n), ram);
  assignment.ports.core.registerVendorDriver(driver, { eventThread: events });
});
afterEach(async () => {
  assignment[Symbol.dispose]();
  vcpu[Symbol.dispose]();
  vm[Symbol.dispose]();
  ram[Symbol.dispose]();
  kvm[Symbol.dispose]();
  await events[Symbol.asyncDispose]();
});

const u32 = (value: number): number[] => [0, 8, 16, 24].map((shift) => (value >>> shift) & 0xff);
/** mov ebx, address; mov dword [rbx], value */
const store = (address: number, value: number): number[] => [
  0xbb,
  ...u32(address),
  0xc7,
  0x03,
  ...u32(value),
];
/** out 0xf4, al */
const END = [0xe6, DEBUG_EXIT_PORT];

/** Runs code in the guest until it writes to the debug-exit port. */
function runGuest(code: readonly number[]): void {
  const { memoryMap, pio, exits } = assignment.ports;
  memoryMap.ram(CODE, code.length).set(code);
  const tables = longModeTables(TABLES);
  memoryMap.ram(TABLES, tables.length).set(tables);
  vcpu.setSregs({ ...vcpu.getSregs(), ...longModeSregs(TABLES) });
  vcpu.setRegs({ rip: CODE, rflags: 2n });
  let isOver = false;
  const exit = createDebugExit(() => {
    isOver = true;
  });
  using _port = pio.add(BigInt(DEBUG_EXIT_PORT), 1n, exit);
  while (!isOver) expect(exits.dispatch(0, vcpu.run())).toBe(true);
}

const wordAt = ({ view }: Mapping, at: number): number =>
  new DataView(view.slice(at, 4).buffer, view.slice(at, 4).byteOffset).getUint32(0, true);

test('a group is attached, the VM cached, SET_KVM replayed to a late notifier, BAR and DMA map are guest memory, and the end of the VM is null', () => {
  const { core, memoryMap } = assignment.ports;
  const assigned = assignment.attach({ address: 'card' });
  const card = cards[0] as Card;
  const { device, dma, kvm: opened } = card.open as CoreOpenDevice;

  // Attached before it was opened: the driver has its VM, and so has the group.
  expect(opened).toBe(vm.reference);
  expect(device.group.kvm).toBe(vm.reference);
  const late = new RecordingListener<KvmPointer | null>('late');
  core.run(device.registerNotifier(VFIO_GROUP_NOTIFY, { mask: VFIO_GROUP_NOTIFY_SET_KVM }, late));
  expect(late.heard).toEqual([vm.reference]);

  // The guest writes to the BAR without an exit, and to its RAM, where the device reads it.
  assigned.function.configWrite(PCI_BASE_ADDRESS_0, 4, BAR);
  assigned.function.configWrite(PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
  expect(memoryMap.regions.map(({ kind, gpa: at }) => [kind, at])).toContainEqual(['device', BigInt(BAR)]);
  runGuest([...store(BAR + 8, 0x1234_5678), ...store(MARK, 0x0bad_cafe), ...END]);
  expect(wordAt(card.memory.mapping, 8)).toBe(0x1234_5678);
  const read = new Uint8Array(4);
  dma.rw(iova(BigInt(MARK)), read, false);
  expect([...read]).toEqual(u32(0x0bad_cafe));
  // The device writes, and reaches its own BAR by the same map.
  dma.rw(iova(BigInt(MARK)), Uint8Array.of(1, 2, 3, 4), true);
  expect(wordAt(ram, MARK)).toBe(0x0403_0201);
  dma.rw(iova(BigInt(BAR + 8)), read, false);
  expect([...read]).toEqual(u32(0x1234_5678));
  expect(assignment.ports.exits.counts()).toEqual({ io: 1 });

  vm[Symbol.dispose]();
  expect(late.heard).toEqual([vm.reference, null]);
  expect(device.group.kvm).toBeNull();
  core.run(device.unregisterNotifier(VFIO_GROUP_NOTIFY, late));
  assigned[Symbol.dispose]();
  expect(card.open).toBeUndefined();
});

test('a device is attached and detached while the guest runs, again and again, beside another one', () => {
  const { memoryMap, core } = assignment.ports;
  using _other = assignment.attach({ address: 'card', name: 'other' });
  for (let round = 1; round <= 3; round++) {
    const assigned = assignment.attach({ address: 'card', interface: round === 2 ? 'iommufd' : 'group' });
    const card = cards.at(-1) as Card;
    assigned.function.configWrite(PCI_BASE_ADDRESS_0, 4, BAR);
    assigned.function.configWrite(PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    runGuest([...store(BAR, round), ...END]);
    expect(wordAt(card.memory.mapping, 0)).toBe(round);
    assigned[Symbol.dispose]();
    expect(card.open).toBeUndefined();
    // Detached: its BAR is nobody's memory any more, and a write to it is an exit that no device answers.
    expect(memoryMap.regions.filter(({ kind }) => kind === 'device')).toEqual([]);
    const before = assignment.ports.exits.counts().mmio ?? 0;
    runGuest([...store(BAR, 0xff), ...END]);
    expect((assignment.ports.exits.counts().mmio ?? 0) - before).toBe(1);
  }
  expect(core.mdevs.devices).toHaveLength(1);
});

test('RAM that is added while a device is attached is mapped for its DMA, and unmapped before it is removed', () => {
  using assigned = assignment.attach({ address: 'card' });
  const { dma } = (cards[0] as Card).open as CoreOpenDevice;
  const at = iova(0x800_0000n);
  expect(() => dma.rw(at, new Uint8Array(1), false)).toThrowError(/EFAULT/);
  using more = Mapping.huge(PAGE);
  const added = assignment.ports.memoryMap.addRam(gpa(at), more, { name: 'hot-plugged' });
  dma.rw(at, Uint8Array.of(7), true);
  expect(more.view.slice(0, 1)[0]).toBe(7);
  added[Symbol.dispose]();
  expect(() => dma.rw(at, new Uint8Array(1), false)).toThrowError(/EFAULT/);
  expect(assigned.function.name).toBe('card');
});

test('RAM that is older than the device is unmapped for DMA, too, before it is removed', () => {
  using more = Mapping.huge(PAGE);
  const at = iova(0x800_0000n);
  const added = assignment.ports.memoryMap.addRam(gpa(at), more, { name: 'cold-plugged' });
  using _assigned = assignment.attach({ address: 'card' });
  const { dma } = (cards[0] as Card).open as CoreOpenDevice;
  dma.rw(at, Uint8Array.of(7), true);
  added[Symbol.dispose]();
  expect(() => dma.rw(at, new Uint8Array(1), false)).toThrowError(/EFAULT/);
});

test('what cannot be attached leaves nothing behind, and says what to do', () => {
  const { core, memoryMap } = assignment.ports;
  expect(() => assignment.attach({ address: 'no-such-device' })).toThrowError(
    /attach on device 'no-such-device': ENODEV\n {2}hint: known devices are: core: .*card.*; host: .*; vfio-user: /,
  );
  expect(() =>
    assignment.attach({ address: 'card', options: {}, interface: 'group', name: 'x' })[Symbol.dispose](),
  ).not.toThrow();
  expect(core.mdevs.devices).toEqual([]);
  expect(memoryMap.regions).toHaveLength(1);
});

test('a failed step is what attach throws, also if its undoing fails', () => {
  const { core } = assignment.ports;
  const { provider } = core;
  const failing = {
    ...provider,
    resolve: (...request: Parameters<typeof provider.resolve>) => ({
      ...provider.resolve(...request),
      isNoiommu: true,
      [Symbol.dispose]() {
        throw new Error('cannot be removed');
      },
    }),
  };
  using other = createAssignment({ vm, eventThread: events, windows: [WINDOW], core, providers: [failing] });
  let thrown: unknown;
  try {
    other.attach({ address: 'card' });
  } catch (error) {
    thrown = error;
  }
  expect(thrown).toMatchObject({
    name: 'SysError',
    code: 'EPERM',
    suppressed: [{ message: 'cannot be removed' }],
  });
});

test('an interface that there is not is named', () => {
  const interfaceOfNoType = 'iommfd' as 'iommufd';
  expect(() => assignment.attach({ address: 'card', interface: interfaceOfNoType })).toThrowError(
    "attach: interface 'iommfd' is neither group nor iommufd",
  );
});

test('a port that has no default is named', () => {
  using bare = createAssignment({ vm });
  expect(() => bare.attach({ address: 'virtio-net' })).toThrowError(
    'tsvisor/assign: no eventThread was given: start one with PolledEventThread.start()',
  );
});

test('disposing the assignment detaches what is left, and nothing can be attached after it', async () => {
  const [first, second] = [
    assignment.attach({ address: 'card' }),
    assignment.attach({ address: 'virtio-net' }),
  ];
  assignment[Symbol.dispose]();
  expect((cards[0] as Card).open).toBeUndefined();
  expect(() => assignment.attach({ address: 'card' })).toThrowError(/attach on card: EBADF\n.*is disposed/);
  // Their owner may dispose them all the same.
  first[Symbol.dispose]();
  second[Symbol.dispose]();
  await events[Symbol.asyncDispose]();
});

test('a port of another name, a window that is none, and a request without an address are refused with what is meant', () => {
  expect(() => createAssignment({ doorbels: {} } as object)).toThrowError(
    /no port doorbels; the ports are vm, /,
  );
  const windows = [{ base: 0, bytes: 1 }] as never;
  expect(() => createAssignment({ windows })).toThrowError(/a window is \{ kind/);
  expect(() => assignment.attach({} as never)).toThrowError('attach takes { address }');
  expect(() => assignment.attach('card' as never)).toThrowError('attach takes { address }');
});
