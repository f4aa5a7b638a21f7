/** Fakes of the machine's ports, for tests of PCI devices and vendor drivers. */
import { formatRange, type Gpa, type Hva, isAligned } from '../../sys/address.js';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { drainEventfd, isReadable, signalEventfd } from '../../sys/eventfd.js';
import { Fd } from '../../sys/fd.js';
import { disposable } from '../../sys/scope.js';
import type { TraceChannel } from '../../sys/trace.js';
import type {
  AddressWindow,
  Bus,
  BusDevice,
  Doorbells,
  GuestMapper,
  Interrupts,
  LevelLine,
  MsiLine,
  PciEnvironment,
  Signals,
} from '../contracts.js';

export * from './scripted-device.js';

/** A range of a {@link FakeBus}. */
export interface FakeRange {
  /** First address or port. */
  readonly base: bigint;
  /** Length in bytes, or number of ports. */
  readonly bytes: bigint;
  /** The device that claims it. */
  readonly device: BusDevice;
}

const overlap = (a: bigint, aBytes: bigint, b: bigint, bBytes: bigint): boolean =>
  a < b + bBytes && b < a + aBytes;

function remove<T>(list: T[], item: T): Disposable {
  return disposable(() => list.splice(list.indexOf(item), 1));
}

/** A bus without a vCPU: the test performs the guest's accesses. */
export class FakeBus implements Bus {
  readonly kind: Bus['kind'];
  /** Ranges in the order in which they were added. */
  readonly ranges: FakeRange[] = [];

  constructor(kind: Bus['kind']) {
    this.kind = kind;
  }

  add(base: bigint, bytes: bigint, device: BusDevice): Disposable {
    const other = this.ranges.find((range) => overlap(base, bytes, range.base, range.bytes));
    if (other !== undefined) {
      throw new RangeError(`${device.name} at ${formatRange(base, bytes)} overlaps ${other.device.name}`);
    }
    const range = { base, bytes, device };
    this.ranges.push(range);
    return remove(this.ranges, range);
  }

  /** Reads as the guest does: all-ones unless one range contains the whole access. */
  read(address: bigint, bytes: number): Uint8Array<ArrayBuffer> {
    const data = new Uint8Array(bytes).fill(0xff);
    const range = this.#find(address, bytes);
    range?.device.read(Number(address - range.base), data);
    return data;
  }

  /** Reads 4 bytes, little-endian. */
  read32(address: bigint): number {
    return new DataView(this.read(address, 4).buffer).getUint32(0, true);
  }

  /** Writes as the guest does: drops the write unless one range contains all of it. */
  write(address: bigint, data: Uint8Array): void {
    const range = this.#find(address, data.length);
    range?.device.write(Number(address - range.base), data);
  }

  /** Writes 4 bytes, little-endian. */
  write32(address: bigint, value: number): void {
    this.write(address, new Uint8Array(new Uint32Array([value]).buffer));
  }

  #find(address: bigint, bytes: number): FakeRange | undefined {
    return this.ranges.find(
      ({ base, bytes: size }) => address >= base && address + BigInt(bytes) <= base + size,
    );
  }
}

/** A memory slot of a {@link FakeMapper}. */
export interface FakeSlot {
  /** First byte in the guest. */
  readonly gpa: Gpa;
  /** First byte in this process. */
  readonly hva: Hva;
  /** Whole pages. */
  readonly bytes: bigint;
  /** The name that the device gave it. */
  readonly name: string;
  /** Whether guest writes exit. */
  readonly isReadonly: boolean;
}

/** Records memory slots, and enforces KVM's rules: page-aligned and disjoint. */
export class FakeMapper implements GuestMapper {
  /** Slots mapped now. */
  readonly slots: FakeSlot[] = [];
  /** While set, `map` throws SysError with this errno. */
  failure: keyof typeof errno | undefined;

  map(gpa: Gpa, hva: Hva, bytes: bigint, name: string): Disposable {
    return this.#add(gpa, hva, bytes, name, false);
  }

  mapReadonly(gpa: Gpa, hva: Hva, bytes: bigint, name: string): Disposable {
    return this.#add(gpa, hva, bytes, name, true);
  }

  #add(gpa: Gpa, hva: Hva, bytes: bigint, name: string, isReadonly: boolean): Disposable {
    const fail = (code: keyof typeof errno): SysError =>
      new SysError({ call: 'KVM_SET_USER_MEMORY_REGION', target: name, errno: errno[code] });
    if (this.failure !== undefined) throw fail(this.failure);
    if (bytes <= 0n || !isAligned(gpa) || !isAligned(hva) || !isAligned(bytes)) throw fail('EINVAL');
    if (this.slots.some((slot) => overlap(gpa, bytes, slot.gpa, slot.bytes))) throw fail('EEXIST');
    const slot = { gpa, hva, bytes, name, isReadonly };
    this.slots.push(slot);
    return remove(this.slots, slot);
  }
}

/** A doorbell of {@link FakeDoorbells}. */
export interface FakeDoorbell {
  /** The bus. */
  readonly kind: Bus['kind'];
  /** Guest physical address, or I/O port. */
  readonly address: bigint;
  /** Width of the write that signals it; 0 for any. */
  readonly bytes: number;
  /** The device's eventfd. */
  readonly fd: number;
  /** The value that signals it; undefined for any. */
  readonly datamatch: bigint | undefined;
}

/** Records doorbells; a test rings one by signalling its fd. */
export class FakeDoorbells implements Doorbells {
  /** Doorbells registered now. */
  readonly bells: FakeDoorbell[] = [];

  add(kind: Bus['kind'], address: bigint, bytes: number, fd: number, datamatch?: bigint): Disposable {
    const bell = { kind, address, bytes, fd, datamatch };
    this.bells.push(bell);
    return remove(this.bells, bell);
  }
}

/** An MSI that a fake line delivered. */
export interface DeliveredMessage {
  /** Name of the line. */
  readonly name: string;
  /** Message address. */
  readonly address: bigint;
  /** Message data. */
  readonly data: number;
  /** How often the eventfd was signalled. */
  readonly count: bigint;
}

/** An MSI line with a real eventfd, delivered to {@link FakeInterrupts.delivered}. Created by {@link FakeInterrupts.msi}. */
export class FakeMsiLine implements MsiLine {
  /** The name that the device gave it. */
  readonly name: string;
  readonly #fd: Fd;
  readonly #owner: FakeInterrupts;
  #message: { address: bigint; data: number } | undefined;

  /** @internal */
  constructor(name: string, fd: Fd, owner: FakeInterrupts) {
    this.name = name;
    this.#fd = fd;
    this.#owner = owner;
  }

  get eventfd(): number {
    return this.#fd.number;
  }

  get isOpen(): boolean {
    return this.#message !== undefined;
  }

  open(address: bigint, data: number): void {
    this.deliver();
    this.#message = { address, data };
    this.deliver();
  }

  close(): void {
    this.deliver();
    this.#message = undefined;
  }

  isPending(): boolean {
    return isReadable(this.eventfd);
  }

  /** Delivers pending signals, as KVM's irqfd does; a closed line keeps them. */
  deliver(): void {
    if (this.#message === undefined) return;
    const count = drainEventfd(this.eventfd);
    if (count > 0n) this.#owner.delivered.push({ name: this.name, ...this.#message, count });
  }

  /** Delivers what is pending and closes the eventfd. */
  [Symbol.dispose](): void {
    this.deliver();
    this.#owner.lines.delete(this);
    this.#fd[Symbol.dispose]();
  }
}

/** A level-triggered pin; the test issues the EOIs. Created by {@link FakeInterrupts.level}. */
export class FakeLevelLine implements LevelLine {
  readonly gsi: number;
  /** The name that the device gave it. */
  readonly name: string;
  readonly #event: Fd;
  readonly #resample: Fd;
  readonly #owner: FakeInterrupts;
  #isAsserted = false;

  /** @internal */
  constructor(gsi: number, name: string, event: Fd, resample: Fd, owner: FakeInterrupts) {
    this.gsi = gsi;
    this.name = name;
    this.#event = event;
    this.#resample = resample;
    this.#owner = owner;
  }

  get eventfd(): number {
    return this.#event.number;
  }

  get resamplefd(): number {
    return this.#resample.number;
  }

  /** Whether the pin is asserted; consumes pending signals of the eventfd. */
  get isAsserted(): boolean {
    if (drainEventfd(this.eventfd) > 0n) this.#isAsserted = true;
    return this.#isAsserted;
  }

  /** The guest's EOI: de-asserts the pin and signals {@link FakeLevelLine.resamplefd}. No effect while de-asserted. */
  eoi(): void {
    if (!this.isAsserted) return;
    this.#isAsserted = false;
    signalEventfd(this.resamplefd);
  }

  /** Disconnects the pin and closes both eventfds. */
  [Symbol.dispose](): void {
    this.#owner.levels.delete(this);
    this.#event[Symbol.dispose]();
    this.#resample[Symbol.dispose]();
  }
}

/** Interrupts with real eventfds, so that an event task or another process can signal them. */
export class FakeInterrupts implements Interrupts {
  /** MSI lines not yet disposed. */
  readonly lines = new Set<FakeMsiLine>();
  /** Pins not yet disposed. */
  readonly levels = new Set<FakeLevelLine>();
  /** Messages delivered since the last {@link FakeInterrupts.take}. */
  readonly delivered: DeliveredMessage[] = [];
  /** GSIs available to MSI lines: `msi` throws SysError ENOSPC beyond it. */
  limit = Number.POSITIVE_INFINITY;

  msi(name: string): MsiLine {
    if (this.lines.size >= this.limit) {
      throw new SysError({ call: 'KVM_SET_GSI_ROUTING', target: name, errno: errno.ENOSPC });
    }
    const line = new FakeMsiLine(name, Fd.eventfd(name), this);
    this.lines.add(line);
    return line;
  }

  level(gsi: number, name: string): LevelLine {
    const line = new FakeLevelLine(gsi, name, Fd.eventfd(name), Fd.eventfd(`${name} resample`), this);
    this.levels.add(line);
    return line;
  }

  /** Delivers pending interrupts of open lines, which KVM does at once. Returns and removes all delivered messages. */
  take(): DeliveredMessage[] {
    for (const line of this.lines) line.deliver();
    return this.delivered.splice(0);
  }
}

/** Polls its eventfds when the test calls {@link FakeSignals.deliver}, as the machine does between two exits. */
export class FakeSignals implements Signals {
  /** Callbacks by fd. */
  readonly watched = new Map<number, () => void>();

  watch(fd: number, ready: () => void): Disposable {
    if (this.watched.has(fd)) {
      throw new SysError({ call: 'epoll_ctl EPOLL_CTL_ADD', target: `fd ${fd}`, errno: errno.EEXIST });
    }
    this.watched.set(fd, ready);
    return disposable(() => this.watched.delete(fd));
  }

  /** Drains every signalled eventfd and calls its callback. */
  deliver(): void {
    for (const [fd, ready] of [...this.watched]) if (drainEventfd(fd) > 0n) ready();
  }
}

/** A machine for one PCI device, made of fakes. */
export interface FakeEnvironment extends PciEnvironment {
  readonly mmio: FakeBus;
  readonly pio: FakeBus;
  readonly memory: FakeMapper;
  readonly doorbells: FakeDoorbells;
  readonly interrupts: FakeInterrupts;
  readonly signals: FakeSignals;
}

/** A PC's BAR windows: I/O ports from 0xC000, 256 MiB at 3.5 GiB, and 64 GiB at 512 GiB. */
export const fakeWindows: readonly AddressWindow[] = [
  { kind: 'pio', base: 0xc000n, bytes: 0x4000n },
  { kind: 'mmio', base: 0xe000_0000n, bytes: 0x1000_0000n },
  { kind: 'mmio', base: 0x80_0000_0000n, bytes: 0x10_0000_0000n },
];

/** Creates a machine of fakes. @param windows where BARs can be placed */
export function fakeEnvironment(windows: readonly AddressWindow[] = fakeWindows): FakeEnvironment {
  return {
    mmio: new FakeBus('mmio'),
    pio: new FakeBus('pio'),
    memory: new FakeMapper(),
    doorbells: new FakeDoorbells(),
    interrupts: new FakeInterrupts(),
    signals: new FakeSignals(),
    windows,
  };
}

/** Records the events of `channel` until disposed. */
export function recordTrace<Event extends object>(
  channel: TraceChannel<Event>,
): Disposable & { readonly events: Event[] } {
  const events: Event[] = [];
  const listener = (event: Event): void => void events.push(event);
  channel.subscribe(listener);
  return { events, [Symbol.dispose]: () => void channel.unsubscribe(listener) };
}
