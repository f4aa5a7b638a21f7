import type { Registers } from '../mdev/region-access.js';
import type { ActiveFaults } from './active-faults.js';
import type { CardState } from './card-state.js';
import type { DmaEngine } from './dma-engine.js';
import { decodeFault } from './faults.js';
import {
  CARD_ID,
  REG_DMA_COMMAND,
  REG_DMA_CRC,
  REG_DMA_DELAY,
  REG_DMA_LENGTH,
  REG_DMA_MOVED,
  REG_DMA_SOURCE,
  REG_DMA_STATUS,
  REG_DMA_TARGET,
  REG_DMA_VALUE,
  REG_DMA_VECTOR,
  REG_DOORBELL_VECTOR,
  REG_DOORBELLS,
  REG_FAULT,
  REG_ID,
  REG_INTERRUPTS,
  REG_PIN,
  REG_RAISE,
  REG_SCRATCH,
  REGISTERS_BYTES,
} from './spec.js';

/** One register of 32 bits. Without `read`, it reads 0; without `write`, it is read-only. */
interface Register {
  readonly read?: () => number;
  readonly write?: (value: number) => void;
}

/** A card's registers: reads of any width, writes of 32 bits; narrower ones are ignored. Machine thread only. */
export class CardRegisters implements Registers {
  readonly #dma: DmaEngine;
  readonly #faults: ActiveFaults;
  /** Those that keep what is written. */
  readonly words: Uint32Array<ArrayBuffer> = new Uint32Array(REGISTERS_BYTES / 4);
  readonly #table: ReadonlyMap<number, Register>;

  constructor(state: CardState, dma: DmaEngine, faults: ActiveFaults) {
    this.#dma = dma;
    this.#faults = faults;
    const shared = (word: 'doorbellVector' | 'dmaVector'): Register => ({
      read: () => state.get(word),
      write: (value) => state.set(word, value),
    });
    this.#table = new Map<number, Register>([
      [REG_ID, { read: () => CARD_ID }],
      [REG_SCRATCH, this.#plain(REG_SCRATCH)],
      [REG_RAISE, { write: (value) => state.raise(value) }],
      [
        REG_PIN,
        {
          read: () => (state.pin.isAsserted ? 1 : 0),
          write: () => {
            state.pin.isAsserted = false;
          },
        },
      ],
      [REG_INTERRUPTS, { read: () => state.interrupts }],
      [REG_DOORBELLS, { read: () => state.get('doorbells') }],
      [REG_DOORBELL_VECTOR, shared('doorbellVector')],
      [REG_FAULT, { read: () => faults.bits, write: (value) => this.#inject(value) }],
      ...[REG_DMA_SOURCE, REG_DMA_SOURCE + 4, REG_DMA_TARGET, REG_DMA_TARGET + 4].map(
        (at) => [at, this.#plain(at)] as const,
      ),
      ...[REG_DMA_LENGTH, REG_DMA_VALUE, REG_DMA_DELAY].map((at) => [at, this.#plain(at)] as const),
      [REG_DMA_COMMAND, { write: (value) => this.#begin(value) }],
      [REG_DMA_STATUS, { read: () => state.get('dmaStatus') }],
      [REG_DMA_CRC, { read: () => state.get('dmaCrc') }],
      [REG_DMA_MOVED, { read: () => state.get('dmaMoved') }],
      [REG_DMA_VECTOR, shared('dmaVector')],
    ]);
  }

  reset(): void {
    this.words.fill(0);
  }

  read(offset: number): number {
    return (this.#table.get(offset & ~3)?.read?.() ?? 0) >>> (8 * (offset & 3));
  }

  write(offset: number, bytes: number, value: number): void {
    if (bytes === 4) this.#table.get(offset)?.write?.(value);
  }

  /** Keeps what is written, and does nothing by it. */
  #plain(offset: number): Register {
    return {
      read: () => this.words[offset / 4] as number,
      write: (value) => {
        this.words[offset / 4] = value;
      },
    };
  }

  #begin(command: number): void {
    const word = (offset: number) => this.words[offset / 4] as number;
    const address = (offset: number) => BigInt(word(offset)) | (BigInt(word(offset + 4)) << 32n);
    const program = {
      command,
      source: address(REG_DMA_SOURCE),
      target: address(REG_DMA_TARGET),
      length: word(REG_DMA_LENGTH),
      value: word(REG_DMA_VALUE),
    };
    this.#dma.start(program, word(REG_DMA_DELAY));
  }

  #inject(value: number): void {
    const fault = decodeFault(value);
    if (fault === 'none') this.#faults.clear();
    else if (fault !== undefined) this.#faults.add(fault);
  }
}
