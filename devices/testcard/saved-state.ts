import { PAGE_BYTES, PreCopiedMemory, readPages, storePages, writePages } from '../mdev/pre-copy.js';
import { readState, StateWriter } from '../mdev/state-fields.js';
import type { StoppableDevice } from '../mdev/stop-copy-migration.js';
import type { CardState } from './card-state.js';
import type { DmaEngine } from './dma-engine.js';
import type { CardRegisters } from './registers.js';

/** "card", and the version of the format; then 1 for a state whose BAR 2 was copied before: its pages that have changed follow. */
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
  /** Contents of BARs: views, taken anew for each use, and their lengths. The last one is BAR 2. */
  readonly memory: readonly CardMemory[];
}

interface CardMemory {
  readonly bytes: number;
  readonly view: () => Uint8Array;
}

/**
 * A card's state: registers, pending interrupts, the transfer that runs, and the memory of its BARs. Configuration space is its
 * user's to restore, as with vfio-pci, and faults stay where they are.
 */
export function cardState(
  { registers, state, dma, memory }: CardParts,
  motion: Pick<StoppableDevice, 'stop' | 'start' | 'quiet'>,
  hasPreCopy = false,
): StoppableDevice {
  const ram = memory.at(-1) as CardMemory;
  const fixed: readonly Part[] = [
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
    ...memory.slice(0, -1).map(({ bytes, view }) => memoryPart(view, bytes)),
  ];
  const parts = [...fixed, memoryPart(ram.view, ram.bytes)];
  const bytesOf = (all: readonly Part[]) => all.reduce((sum, { bytes }) => sum + bytes, HEADER_BYTES);
  const save = (all: readonly Part[], isRest: boolean) => [header(isRest), ...all.map((part) => part.read())];
  const load = (data: Uint8Array, all: readonly Part[], isRest: boolean): boolean => {
    if (!header(isRest).every((byte, i) => data[i] === byte)) return false;
    let at = HEADER_BYTES;
    return all.every((part) => {
      const piece = data.subarray(at, at + part.bytes);
      at += part.bytes;
      return part.write(piece);
    });
  };
  const restBytes = bytesOf(fixed);
  const pages = { name: 'page', version: 1 };
  const preCopy = new PreCopiedMemory({
    ...{ name: 'bar2', bytes: ram.bytes, memory: ram.view },
    restBytes: restBytes + HEADER_BYTES,
    saveRest(written) {
      const list = new StateWriter(pages.name, pages.version);
      writePages(list, written);
      return [...save(fixed, true), ...list.parts];
    },
    loadRest(data) {
      if (data.length < restBytes) return `${data.length} bytes, where at least ${restBytes} are due`;
      const { name, version } = pages;
      const list = readState(data.subarray(restBytes), name, version, (reader) =>
        readPages(reader, ram.bytes / PAGE_BYTES),
      );
      if (typeof list === 'string') return list;
      if (!load(data.subarray(0, restBytes), fixed, true)) return false;
      storePages(ram.view(), list);
      return true;
    },
  });
  return {
    stateBytes: bytesOf(parts),
    description: 'a test card with the same options',
    ...motion,
    ...(hasPreCopy && { preCopy }),
    save: () => save(parts, false),
    load: (data) => load(data, parts, false),
  };
}

const header = (isRest: boolean): Uint8Array => {
  const bytes = new Uint8Array(HEADER_BYTES);
  bytes.set([...MAGIC, isRest ? 1 : 0]);
  return bytes;
};
