import type { StoppableDevice } from '../mdev/stop-copy-migration.js';
import type { CardState } from './card-state.js';
import type { DmaEngine } from './dma-engine.js';
import type { CardRegisters } from './registers.js';

/** "card", and the version of the format. */
const MAGIC = [0x63, 0x61, 0x72, 0x64, 1] as const;
const HEADER_BYTES = 8;

/** A part of a card's state: words of registers, or memory. */
interface Part {
  readonly bytes: number;
  read(): Uint8Array;
  write(data: Uint8Array): boolean;
}

const wordsPart = (count: number, read: () => Uint32Array, write: (words: Uint32Array) => boolean): Part => ({
  bytes: 4 * count,
  read: () => new Uint8Array(read().buffer),
  write: (data) => write(new Uint32Array(Uint8Array.from(data).buffer)),
});

const memoryPart = (memory: () => Uint8Array, bytes: number): Part => ({
  bytes,
  read: memory,
  write: (data) => {
    memory().set(data);
    return true;
  },
});

/** What the state consists of. */
export interface CardParts {
  readonly registers: CardRegisters;
  readonly state: CardState;
  readonly dma: DmaEngine;
  /** Contents of BARs: views, taken anew for each use, and their lengths. */
  readonly memory: readonly { readonly bytes: number; readonly view: () => Uint8Array }[];
}

/**
 * A card's state: registers, pending interrupts, the transfer that runs, and the memory of its BARs. Configuration space is its
 * user's to restore, as with vfio-pci, and faults stay where they are.
 */
export function cardState(
  { registers, state, dma, memory }: CardParts,
  motion: Pick<StoppableDevice, 'stop' | 'start'>,
): StoppableDevice {
  const parts: readonly Part[] = [
    wordsPart(
      registers.words.length,
      () => Uint32Array.from(registers.words),
      (words) => {
        registers.words.set(words);
        return true;
      },
    ),
    wordsPart(
      state.saved.length,
      () => state.saved,
      (words) => state.restore(words),
    ),
    wordsPart(
      dma.saved.length,
      () => dma.saved,
      (words) => dma.restore(words),
    ),
    ...memory.map(({ bytes, view }) => memoryPart(view, bytes)),
  ];
  return {
    stateBytes: parts.reduce((sum, { bytes }) => sum + bytes, HEADER_BYTES),
    description: 'a test card with the same options',
    ...motion,
    save: () => Buffer.concat([header(), ...parts.map((part) => part.read())]),
    load(data) {
      if (!header().every((byte, i) => data[i] === byte)) return false;
      let at = HEADER_BYTES;
      return parts.every((part) => {
        const piece = data.subarray(at, at + part.bytes);
        at += part.bytes;
        return part.write(piece);
      });
    },
  };
}

const header = (): Uint8Array => {
  const bytes = new Uint8Array(HEADER_BYTES);
  bytes.set(MAGIC);
  return bytes;
};
