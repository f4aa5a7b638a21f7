/** Fakes of the machine's ports, for tests of devices in this package and others. */
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

export * from '../vfio-pci/testing.js';

export interface FakeRange {
  readonly base: bigint;
  readonly bytes: bigint;
  readonly device: BusDevice;
}

const overlap = (a: bigint, aBytes: bigint, b: bigint, bBytes: bigint): boolean =>
  a < b + bBytes && b < a + aBytes;

function remove<T>(list: T[], item: T): Disposable {
  return disposable(() => list.splice(list.indexOf(item), 1));
}

/** A bus that lists its ranges. */
export class FakeBus implements Bus {
  readonly kind: Bus['kind'];
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

  /** Reads as the guest; all-ones where there is no device. */
  read(address: bigint, bytes: number): Uint8Array<ArrayBuffer> {
    const data = new Uint8Array(bytes).fill(0xff);
    const range = this.#find(address, bytes);
    range?.device.read(Number(address - range.base), data);
    return data;
  }

  read32(address: bigint): number {
    return new DataView(this.read(address, 4).buffer).getUint32(0, true);
  }

  /** Writes as the guest. */
  write(address: bigint, data: Uint8Array): void {
    const range = this.#find(address, data.length);
    range?.device.write(Number(address - range.base), data);
  }

  write32(address: bigint, value: number): void {
    this.write(address, new Uint8Array(new Uint32Array([value]).buffer));
  }

  #find(address: bigint, bytes: number): FakeRange | undefined {
    return this.ranges.find(
      ({ base, bytes: size }) => address >= base && address + BigInt(bytes) <= base + size,
    );
  }
}

export interface FakeSlot {
  readonly gpa: Gpa;
  readonly hva: Hva;
  readonly bytes: bigint;
  readonly name: string;
}

/** Memory slots with KVM's rules: page-aligned and disjoint. */
export class FakeMapper implements GuestMapper {
  readonly slots: FakeSlot[] = [];
  /** If set, maps fail with this. */
  failure: keyof typeof errno | undefined;

  map(gpa: Gpa, hva: Hva, bytes: bigint, name: string): Disposable {
    const fail = (code: keyof typeof errno): SysError =>
      new SysError({ call: 'KVM_SET_USER_MEMORY_REGION', target: name, errno: errno[code] });
    if (this.failure !== undefined) throw fail(this.failure);
    if (bytes <= 0n || !isAligned(gpa) || !isAligned(hva) || !isAligned(bytes)) throw fail('EINVAL');
    if (this.slots.some((slot) => overlap(gpa, bytes, slot.gpa, slot.bytes))) throw fail('EEXIST');
    const slot = { gpa, hva, bytes, name };
    this.slots.push(slot);
    return remove(this.slots, slot);
  }
}

export interface FakeDoorbell {
  readonly kind: Bus['kind'];
  readonly address: bigint;
  readonly bytes: number;
  readonly fd: number;
  readonly datamatch: bigint | undefined;
}

export class FakeDoorbells implements Doorbells {
  readonly bells: FakeDoorbell[] = [];

  add(kind: Bus['kind'], address: bigint, bytes: number, fd: number, datamatch?: bigint): Disposable {
    const bell = { kind, address, bytes, fd, datamatch };
    this.bells.push(bell);
    return remove(this.bells, bell);
  }
}

/** A message delivered to the guest, and how often. */
export interface DeliveredMessage {
  readonly name: string;
  readonly address: bigint;
  readonly data: number;
  readonly count: bigint;
}

class FakeMsiLine implements MsiLine {
  readonly name: string;
  readonly #fd: Fd;
  readonly #owner: FakeInterrupts;
  #message: { address: bigint; data: number } | undefined;

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

  /** Delivers like KVM's irqfd. */
  deliver(): void {
    if (this.#message === undefined) return;
    const count = drainEventfd(this.eventfd);
    if (count > 0n) this.#owner.delivered.push({ name: this.name, ...this.#message, count });
  }

  [Symbol.dispose](): void {
    this.deliver();
    this.#owner.lines.delete(this);
    this.#fd[Symbol.dispose]();
  }
}

/** A pin whose EOIs the test signals. */
export class FakeLevelLine implements LevelLine {
  readonly gsi: number;
  readonly name: string;
  readonly #event: Fd;
  readonly #resample: Fd;
  readonly #owner: FakeInterrupts;
  #isAsserted = false;

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

  get isAsserted(): boolean {
    if (drainEventfd(this.eventfd) > 0n) this.#isAsserted = true;
    return this.#isAsserted;
  }

  /** The guest has serviced the interrupt. */
  eoi(): void {
    if (!this.isAsserted) return;
    this.#isAsserted = false;
    signalEventfd(this.resamplefd);
  }

  [Symbol.dispose](): void {
    this.#owner.levels.delete(this);
    this.#event[Symbol.dispose]();
    this.#resample[Symbol.dispose]();
  }
}

/** Interrupts with real eventfds, which any device can signal. */
export class FakeInterrupts implements Interrupts {
  readonly lines = new Set<FakeMsiLine>();
  readonly levels = new Set<FakeLevelLine>();
  readonly delivered: DeliveredMessage[] = [];
  /** Number of GSIs available. */
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

  /** Delivers pending interrupts of open lines, which KVM does at once. Returns all delivered since the last call. */
  take(): DeliveredMessage[] {
    for (const line of this.lines) line.deliver();
    return this.delivered.splice(0);
  }
}

/** Watches fds only when {@link FakeSignals.deliver} is called, like the machine between two exits. */
export class FakeSignals implements Signals {
  readonly watched = new Map<number, () => void>();

  watch(fd: number, ready: () => void): Disposable {
    if (this.watched.has(fd)) {
      throw new SysError({ call: 'epoll_ctl EPOLL_CTL_ADD', target: `fd ${fd}`, errno: errno.EEXIST });
    }
    this.watched.set(fd, ready);
    return disposable(() => this.watched.delete(fd));
  }

  deliver(): void {
    for (const [fd, ready] of [...this.watched]) if (drainEventfd(fd) > 0n) ready();
  }
}

export interface FakeEnvironment extends PciEnvironment {
  readonly mmio: FakeBus;
  readonly pio: FakeBus;
  readonly memory: FakeMapper;
  readonly doorbells: FakeDoorbells;
  readonly interrupts: FakeInterrupts;
  readonly signals: FakeSignals;
}

/** The windows of a PC: ports from 0xC000, memory below 4 GiB, and 64 GiB above. */
export const fakeWindows: readonly AddressWindow[] = [
  { kind: 'pio', base: 0xc000n, bytes: 0x4000n },
  { kind: 'mmio', base: 0xe000_0000n, bytes: 0x1000_0000n },
  { kind: 'mmio', base: 0x80_0000_0000n, bytes: 0x10_0000_0000n },
];

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

/** Records the events published on `channel` until disposed. */
export function recordTrace<Event extends object>(
  channel: TraceChannel<Event>,
): Disposable & { readonly events: Event[] } {
  const events: Event[] = [];
  const listener = (event: Event): void => void events.push(event);
  channel.subscribe(listener);
  return { events, [Symbol.dispose]: () => void channel.unsubscribe(listener) };
}
