import { IntxPin } from '../mdev/intx-pin.js';
import { MessageSignals, MOST_MESSAGES } from '../mdev/message-signals.js';
import { DMA_DONE, DMA_ERROR, DMA_IDLE, NO_VECTOR } from './spec.js';
import type { Transfer } from './transfer.js';

/** Registers that both threads of a card use, in shared memory. */
export type CardStateBuffer = SharedArrayBuffer;

const WORDS = {
  doorbells: 0,
  doorbellVector: 1,
  dmaStatus: 2,
  dmaCrc: 3,
  dmaMoved: 4,
  dmaVector: 5,
  /** Interrupts that are still to be lost. */
  toLose: 6,
  /** Whether messages leave though they are masked. */
  ignoresMask: 7,
  /** Whether the card is asleep or gone: no interrupts. */
  isSilent: 8,
} as const;
type Word = keyof typeof WORDS;
const SAVED = ['doorbells', 'doorbellVector', 'dmaStatus', 'dmaCrc', 'dmaMoved', 'dmaVector'] as const;
const PENDING_WORDS = MOST_MESSAGES / 32;

export const createCardState = (): CardStateBuffer => new SharedArrayBuffer(4 * Object.keys(WORDS).length);

/** One thread's view of a card: its registers, and the interrupts that they cause. */
export class CardState {
  readonly #words: Int32Array;
  readonly pin: IntxPin;
  readonly signals: MessageSignals;

  constructor({
    state,
    pin,
    signals,
  }: { state: CardStateBuffer; pin: SharedArrayBuffer; signals: SharedArrayBuffer }) {
    this.#words = new Int32Array(state);
    this.pin = new IntxPin(pin);
    this.signals = new MessageSignals(signals);
  }

  get(word: Word): number {
    return Atomics.load(this.#words, WORDS[word]) >>> 0;
  }

  set(word: Word, value: number): void {
    Atomics.store(this.#words, WORDS[word], value);
  }

  add(word: Word, value: number): void {
    Atomics.add(this.#words, WORDS[word], value);
  }

  /** Interrupts since the card was made. */
  get interrupts(): number {
    return this.signals.sent + this.pin.interrupts;
  }

  /** The state after a reset. */
  reset(): void {
    for (const word of ['doorbells', 'dmaCrc', 'dmaMoved'] as const) this.set(word, 0);
    this.set('dmaStatus', DMA_IDLE);
    for (const word of ['doorbellVector', 'dmaVector'] as const) this.set(word, NO_VECTOR);
    this.signals.reset();
    this.pin.isAsserted = false;
  }

  /** Interrupts by a message, or by the pin while messages are off. */
  raise(vector: number): void {
    if (vector === NO_VECTOR || this.get('isSilent') === 1) return;
    for (let left = this.get('toLose'); left > 0; left = this.get('toLose'))
      if (Atomics.compareExchange(this.#words, WORDS.toLose, left, left - 1) === left) return;
    if (this.signals.isEnabled) this.signals.send(vector, this.get('ignoresMask') === 1);
    else this.pin.isAsserted = true;
  }

  /** A transfer has ended: the registers say how, and it interrupts. */
  endTransfer({ moved, crc }: Pick<Transfer, 'moved' | 'crc'>, isDone: boolean): void {
    this.set('dmaMoved', moved);
    this.set('dmaCrc', crc);
    this.set('dmaStatus', isDone ? DMA_DONE : DMA_ERROR);
    this.raise(this.get('dmaVector'));
  }

  /** What a migration takes along: registers, the pin, and messages that are pending. */
  get saved(): Uint32Array<ArrayBuffer> {
    const pending = Array.from({ length: PENDING_WORDS }, (_, i) => this.signals.pendingBits(32 * i));
    const registers = SAVED.map((word) => this.get(word));
    return Uint32Array.of(...registers, this.pin.isAsserted ? 1 : 0, ...pending);
  }

  /** Takes over {@link saved}. Returns false if it cannot be one. */
  restore(words: Uint32Array): boolean {
    for (const [i, word] of SAVED.entries()) this.set(word, words[i] as number);
    const [asserted, ...pending] = words.subarray(SAVED.length);
    this.pin.isAsserted = asserted === 1;
    for (const [i, bits] of pending.entries()) this.signals.restorePending(32 * i, bits);
    return this.get('dmaStatus') <= DMA_ERROR;
  }
}
