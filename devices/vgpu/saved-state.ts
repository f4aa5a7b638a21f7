/** A display card's state: registers, screen, and the pages of video memory that are not all zeros. */
import {
  PAGE_BYTES,
  PreCopiedMemory,
  pagesBytes,
  readPages,
  type SavedPages,
  storePages,
  usedPages,
  writePages,
} from '../mdev/pre-copy.js';
import { readState, StateWriter } from '../mdev/state-fields.js';
import type { StoppableDevice } from '../mdev/stop-copy-migration.js';
import type { Dispi } from './dispi.js';
import { EDID_STATE_BYTES, EdidRegion } from './edid-region.js';
import { DISPI_REGISTERS } from './spec.js';

const NAME = 'vgpu';
const VERSION = 1;
const HEADER_BYTES = 8;
const MIB = 1 << 20;

/** Size of the memory, registers and byte order, screen. */
const FIXED_BYTES = HEADER_BYTES + 4 + 2 * DISPI_REGISTERS + 1 + EDID_STATE_BYTES;

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
  const save = (pages: SavedPages): readonly Uint8Array[] => {
    const state = new StateWriter(NAME, VERSION);
    state.u32(vramBytes);
    dispi.save(state);
    screen().save(state);
    writePages(state, pages);
    return state.parts;
  };
  const load = (data: Uint8Array, hasMemory: boolean): boolean | string => {
    const state = readState(data, NAME, VERSION, (reader) => {
      const saved = reader.u32();
      if (saved !== vramBytes) reader.fail(`that of a card with ${saved / MIB} MiB`);
      return {
        dispi: dispi.readState(reader),
        screen: EdidRegion.load(name, reader),
        pages: readPages(reader, allPages, 'video memory'),
      };
    });
    if (typeof state === 'string') return state;
    state.dispi();
    setScreen(state.screen);
    if (!hasMemory) vram().fill(0);
    storePages(vram(), state.pages);
    return true;
  };
  return {
    stateBytes: FIXED_BYTES + pagesBytes(allPages),
    estimateBytes: () => FIXED_BYTES + pagesBytes(usedPages(vram()).length),
    description: `a display card with ${vramBytes / MIB} MiB`,
    stop() {},
    start() {},
    save: () => save(usedPages(vram())),
    load: (data) => load(data, false),
    preCopy: new PreCopiedMemory({
      ...{ name: 'vram', bytes: vramBytes, memory: vram, restBytes: FIXED_BYTES, saveRest: save },
      loadRest: (data) => load(data, true),
    }),
  };
}
