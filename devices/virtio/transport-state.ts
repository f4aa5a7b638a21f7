import type { StateReader, StateWriter } from '../mdev/state-fields.js';
import { VIRTIO_MSI_NO_VECTOR } from './spec.js';

/**
 * State that the registers (machine thread) and the queues (event threads) of a device share, besides guest memory.
 *
 *   Int32   one word per name of WORDS, then the MSI-X vectors of the configuration and of each queue
 *   Float64 behind them, for each event thread: one per counter, then one per MSI-X vector, written by that thread only
 */
export type TransportStateBuffer = SharedArrayBuffer;

const WORDS = {
  /** ISR status: the queues set bits, a read of the register clears them. */
  isr: 0,
  /** 1 once a queue has failed. */
  needsReset: 1,
  /** Current value of PCI_COMMAND. */
  command: 2,
  generation: 3,
  /** Flags of the device's kind. */
  flags: 4,
  vectors: 5,
} as const;

/** What a kind of device counts, and how many queues it has. */
export interface TransportShape<Counter extends string> {
  readonly queues: number;
  readonly counters: readonly Counter[];
  /** Event threads that serve the queues; 1 if absent. */
  readonly threads?: number;
}

/** Each queue has a vector, and the configuration another one. */
const vectorsOf = ({ queues }: TransportShape<string>): number => queues + 1;
const counterBase = (shape: TransportShape<string>): number =>
  8 * Math.ceil((WORDS.vectors + vectorsOf(shape)) / 2);
/** Numbers that each thread counts. */
const countsOf = (shape: TransportShape<string>): number => shape.counters.length + vectorsOf(shape);

export const createTransportState = (shape: TransportShape<string>): TransportStateBuffer =>
  new SharedArrayBuffer(counterBase(shape) + (shape.threads ?? 1) * countsOf(shape) * 8);

/** The sums of what the threads have counted. */
function readCounts(buffer: TransportStateBuffer, shape: TransportShape<string>): number[] {
  const each = countsOf(shape);
  const all = new Float64Array(buffer, counterBase(shape), (shape.threads ?? 1) * each);
  return Array.from({ length: each }, (_, i) =>
    all.reduce((sum, value, at) => (at % each === i ? sum + value : sum), 0),
  );
}

/** Reads the counters, in any thread. Each one is exact, but they are not read at the same instant. */
export function readTransportCounters<Counter extends string>(
  buffer: TransportStateBuffer,
  shape: TransportShape<Counter>,
): Readonly<Record<Counter, number>> {
  const values = readCounts(buffer, shape);
  return Object.fromEntries(shape.counters.map((name, i) => [name, values[i]])) as Record<Counter, number>;
}

/** Reads how many interrupts each MSI-X vector has had, in any thread. */
export const readTransportVectors = (
  buffer: TransportStateBuffer,
  shape: TransportShape<string>,
): readonly number[] => readCounts(buffer, shape).slice(shape.counters.length);

/** One side's view of the shared state. */
export class TransportState<Counter extends string = 'interrupts'> {
  readonly queueCount: number;
  /** MSI-X vectors. */
  readonly vectorCount: number;
  readonly #words: Int32Array;
  readonly #counters: Float64Array;
  readonly #indexOf: Readonly<Record<string, number>>;
  readonly #firstVector: number;

  /** @param thread which event thread's view it is */
  constructor(buffer: TransportStateBuffer, shape: TransportShape<Counter>, thread = 0) {
    this.queueCount = shape.queues;
    this.vectorCount = vectorsOf(shape);
    this.#words = new Int32Array(buffer, 0, WORDS.vectors + this.vectorCount);
    this.#firstVector = shape.counters.length;
    const counts = countsOf(shape);
    this.#counters = new Float64Array(buffer, counterBase(shape) + thread * counts * 8, counts);
    this.#indexOf = Object.fromEntries(shape.counters.map((name, i) => [name, i]));
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

  /** Flags of the device's kind, 32 bits. */
  get flags(): number {
    return Atomics.load(this.#words, WORDS.flags);
  }

  /** Changes the flags, and the configuration's generation, which drivers check. 4.1.4.3.1 */
  setFlags(flags: number): void {
    Atomics.store(this.#words, WORDS.flags, flags);
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
    for (let queue = 0; queue < this.queueCount; queue++) this.setQueueVector(queue, VIRTIO_MSI_NO_VECTOR);
  }

  /** Saves the registers; the flags are the device's own. The queues must have stopped. */
  save(state: StateWriter): void {
    state
      .u8(this.isr)
      .u8(this.needsReset ? 1 : 0)
      .u8(this.generation)
      .u16(this.configVector);
    for (let queue = 0; queue < this.queueCount; queue++) state.u16(this.queueVector(queue));
  }

  /** Reads what {@link save} has written. Returns a function that takes it over. */
  readState(state: StateReader): () => void {
    const [isr, needsReset, generation] = [state.u8(), state.flag('the need of a reset'), state.u8()];
    const vectors = Array.from({ length: this.vectorCount }, () => state.u16());
    const wrong = vectors.find((vector) => vector >= this.vectorCount && vector !== VIRTIO_MSI_NO_VECTOR);
    if (wrong !== undefined) state.fail(`vector ${wrong} of ${this.vectorCount}`);
    return () => {
      Atomics.store(this.#words, WORDS.isr, isr);
      Atomics.store(this.#words, WORDS.needsReset, needsReset ? 1 : 0);
      Atomics.store(this.#words, WORDS.generation, generation);
      for (const [i, vector] of vectors.entries()) Atomics.store(this.#words, WORDS.vectors + i, vector);
    };
  }

  /** Adds to a counter of this thread. Event threads only. */
  count(counter: Counter, by = 1): void {
    const index = this.#indexOf[counter] as number;
    this.#counters[index] = (this.#counters[index] as number) + by;
  }

  /** As {@link count}, an interrupt of an MSI-X vector. */
  countVector(vector: number): void {
    const index = this.#firstVector + vector;
    this.#counters[index] = (this.#counters[index] as number) + 1;
  }
}
