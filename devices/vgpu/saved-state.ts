/** A display card's state: registers, screen, and the pages of video memory that are not all zeros. */
import { readState, type StateReader, StateWriter } from '../mdev/state-fields.js';
import type { StoppableDevice } from '../mdev/stop-copy-migration.js';
import type { Dispi } from './dispi.js';
import { EDID_STATE_BYTES, EdidRegion } from './edid-region.js';
import { DISPI_REGISTERS } from './spec.js';

const NAME = 'vgpu';
const VERSION = 1;
const HEADER_BYTES = 8;
const MIB = 1 << 20;

/** Video memory is saved by pages: a number of 32 bits, then the contents. */
const PAGE_BYTES = 4096;
const PAGE_RECORD_BYTES = 4 + PAGE_BYTES;
const ZEROS = new Uint8Array(PAGE_BYTES);

/** Size of the memory, registers and byte order, screen, number of pages. */
const FIXED_BYTES = HEADER_BYTES + 4 + 2 * DISPI_REGISTERS + 1 + EDID_STATE_BYTES + 4;

/** What the state consists of. */
export interface VgpuParts {
  readonly name: string;
  readonly vramBytes: number;
  /** The video memory: a view, taken anew for each use. */
  readonly vram: () => Uint8Array;
  readonly dispi: Dispi;
  readonly screen: () => EdidRegion;
  readonly setScreen: (screen: EdidRegion) => void;
}

/**
 * Configuration space is its user's to restore, as with vfio-pci. The screen is part of the state, so that the guest keeps the one it
 * has seen, until the device is opened again. There is nothing to stop: the card does nothing by itself.
 */
export function vgpuState(parts: VgpuParts): StoppableDevice {
  const { name, vramBytes, vram, dispi, screen, setScreen } = parts;
  const allPages = vramBytes / PAGE_BYTES;
  return {
    stateBytes: FIXED_BYTES + allPages * PAGE_RECORD_BYTES,
    estimateBytes: () => FIXED_BYTES + usedPages(vram()).length * PAGE_RECORD_BYTES,
    description: `a display card with ${vramBytes / MIB} MiB`,
    stop() {},
    start() {},
    save() {
      const state = new StateWriter(NAME, VERSION);
      state.u32(vramBytes);
      dispi.save(state);
      screen().save(state);
      const memory = vram();
      const pages = usedPages(memory);
      state.u32(pages.length);
      for (const page of pages) state.u32(page).bytes(pageOf(memory, page));
      return state.finish();
    },
    load(data) {
      const state = readState(data, NAME, VERSION, (reader) => {
        const saved = reader.u32();
        if (saved !== vramBytes) reader.fail(`that of a card with ${saved / MIB} MiB`);
        return {
          dispi: dispi.readState(reader),
          screen: EdidRegion.load(name, reader),
          pages: readPages(reader, allPages),
        };
      });
      if (typeof state === 'string') return state;
      state.dispi();
      setScreen(state.screen);
      const memory = vram();
      memory.fill(0);
      for (const [page, contents] of state.pages) memory.set(contents, page * PAGE_BYTES);
      return true;
    },
  };
}

const pageOf = (memory: Uint8Array, page: number): Uint8Array =>
  memory.subarray(page * PAGE_BYTES, (page + 1) * PAGE_BYTES);

function usedPages(memory: Uint8Array): number[] {
  const bytes = Buffer.from(memory.buffer, memory.byteOffset, memory.length);
  const used: number[] = [];
  for (let at = 0; at < bytes.length; at += PAGE_BYTES)
    if (bytes.compare(ZEROS, 0, PAGE_BYTES, at, at + PAGE_BYTES) !== 0) used.push(at / PAGE_BYTES);
  return used;
}

function readPages(state: StateReader, most: number): ReadonlyMap<number, Uint8Array> {
  const pages = new Map<number, Uint8Array>();
  const count = state.u32();
  if (count > most) state.fail(`${count} pages of video memory, where ${most} fit`);
  for (let i = 0, least = 0; i < count; i++) {
    const page = state.u32();
    if (page < least || page >= most) state.fail(`page ${page} of video memory`);
    pages.set(page, state.bytes(PAGE_BYTES));
    least = page + 1;
  }
  return pages;
}
