import { MSIX_VECTORS, QUEUE_COUNT, VIRTIO_MSI_NO_VECTOR } from './spec.js';

/**
 * State that the registers (machine thread) and the queues (event thread) of a device share, besides guest memory.
 *
 *   Int32   one word per name of WORDS
 *   Float64 from byte 32: one per name of COUNTERS, then one per MSI-X vector, written by the event thread only
 */
export type SharedStateBuffer = SharedArrayBuffer;

const WORDS = {
  /** ISR status: the queues set bits, a read of the register clears them. */
  isr: 0,
  /** 1 once a queue has failed. */
  needsReset: 1,
  /** Current value of PCI_COMMAND. */
  command: 2,
  /** MSI-X vectors: the configuration's, then each queue's. */
  vectors: 3,
  isLinkUp: 6,
  generation: 7,
} as const;
const COUNTER_BASE = 32;

const COUNTERS = {
  txPackets: 0,
  txBytes: 1,
  txDropped: 2,
  rxPackets: 3,
  rxBytes: 4,
  rxDropped: 5,
  doorbells: 6,
  interrupts: 7,
} as const;
const COUNTER_COUNT = Object.keys(COUNTERS).length;

/**
 * Statistics of a device since it was created. Packets and bytes count Ethernet frames; drops are frames that the port
 * refused, or that fit no buffer; doorbells in quick succession count as one.
 * @useDeclaredType
 */
export type VirtioNetCounters = Readonly<Record<keyof typeof COUNTERS, number>>;

export const createSharedState = (): SharedStateBuffer =>
  new SharedArrayBuffer(COUNTER_BASE + (COUNTER_COUNT + MSIX_VECTORS) * 8);

/** Reads the counters, in any thread. Each one is exact, but they are not read at the same instant. */
export function readCounters(buffer: SharedStateBuffer): VirtioNetCounters {
  const values = new Float64Array(buffer, COUNTER_BASE, COUNTER_COUNT);
  return Object.fromEntries(
    Object.entries(COUNTERS).map(([name, i]) => [name, values[i]]),
  ) as VirtioNetCounters;
}

/** Reads how many interrupts each MSI-X vector has had, in any thread. */
export const readVectorCounts = (buffer: SharedStateBuffer): readonly number[] => [
  ...new Float64Array(buffer, COUNTER_BASE + COUNTER_COUNT * 8, MSIX_VECTORS),
];

/** One side's view of the shared words. */
export class SharedState {
  readonly #words: Int32Array;
  readonly #counters: Float64Array;

  constructor(buffer: SharedStateBuffer) {
    this.#words = new Int32Array(buffer, 0, COUNTER_BASE / 4);
    this.#counters = new Float64Array(buffer, COUNTER_BASE, COUNTER_COUNT + MSIX_VECTORS);
  }

  get isr(): number {
    return Atomics.load(this.#words, WORDS.isr);
  }

  raiseIsr(bits: number): void {
    Atomics.or(this.#words, WORDS.isr, bits);
  }

  /** Returns the ISR status and clears it. 4.1.4.5 */
  takeIsr(): number {
    return Atomics.exchange(this.#words, WORDS.isr, 0);
  }

  get needsReset(): boolean {
    return Atomics.load(this.#words, WORDS.needsReset) === 1;
  }

  demandReset(): void {
    Atomics.store(this.#words, WORDS.needsReset, 1);
  }

  get command(): number {
    return Atomics.load(this.#words, WORDS.command);
  }

  set command(value: number) {
    Atomics.store(this.#words, WORDS.command, value);
  }

  get configVector(): number {
    return Atomics.load(this.#words, WORDS.vectors);
  }

  set configVector(vector: number) {
    Atomics.store(this.#words, WORDS.vectors, vector);
  }

  queueVector(queue: number): number {
    return Atomics.load(this.#words, WORDS.vectors + 1 + queue);
  }

  setQueueVector(queue: number, vector: number): void {
    Atomics.store(this.#words, WORDS.vectors + 1 + queue, vector);
  }

  get isLinkUp(): boolean {
    return Atomics.load(this.#words, WORDS.isLinkUp) === 1;
  }

  /** Changes the link status, and the configuration's generation, which drivers check. 4.1.4.3.1 */
  setLink(isUp: boolean): void {
    Atomics.store(this.#words, WORDS.isLinkUp, isUp ? 1 : 0);
    Atomics.add(this.#words, WORDS.generation, 1);
  }

  /** config_generation, 8 bits. */
  get generation(): number {
    return Atomics.load(this.#words, WORDS.generation) & 0xff;
  }

  /** Clears the state that a device reset clears; the queues must have stopped. */
  reset(): void {
    Atomics.store(this.#words, WORDS.isr, 0);
    Atomics.store(this.#words, WORDS.needsReset, 0);
    this.configVector = VIRTIO_MSI_NO_VECTOR;
    for (let queue = 0; queue < QUEUE_COUNT; queue++) this.setQueueVector(queue, VIRTIO_MSI_NO_VECTOR);
  }

  /** Adds to a counter. Event thread only. */
  count(counter: keyof VirtioNetCounters, by = 1): void {
    const index = COUNTERS[counter];
    this.#counters[index] = (this.#counters[index] as number) + by;
  }

  /** Counts an interrupt of an MSI-X vector. Event thread only. */
  countVector(vector: number): void {
    const index = COUNTER_COUNT + vector;
    this.#counters[index] = (this.#counters[index] as number) + 1;
  }
}
