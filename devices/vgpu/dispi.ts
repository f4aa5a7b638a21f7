/** The registers that select the mode, and the plane that they define. */
import { DRM_FORMAT_BGRX8888, DRM_FORMAT_RGB565, DRM_FORMAT_XRGB8888 } from '../../vfio/drm.js';
import type { StateReader, StateWriter } from '../mdev/state-fields.js';
import type { Resolution } from './edid-region.js';
import {
  DISPI_REGISTERS,
  VBE_DISPI_ENABLED,
  VBE_DISPI_GETCAPS,
  VBE_DISPI_ID5,
  VBE_DISPI_INDEX_BPP,
  VBE_DISPI_INDEX_ENABLE,
  VBE_DISPI_INDEX_ID,
  VBE_DISPI_INDEX_VIDEO_MEMORY_64K,
  VBE_DISPI_INDEX_VIRT_HEIGHT,
  VBE_DISPI_INDEX_VIRT_WIDTH,
  VBE_DISPI_INDEX_X_OFFSET,
  VBE_DISPI_INDEX_XRES,
  VBE_DISPI_INDEX_Y_OFFSET,
  VBE_DISPI_INDEX_YRES,
} from './spec.js';

/** A plane that lies completely within video memory. */
export interface Plane {
  /** Width in pixels. */
  readonly width: number;
  /** Height in pixels. */
  readonly height: number;
  /** DRM_FORMAT_, which determines the bytes per pixel. */
  readonly drmFormat: number;
  /** Bytes from the start of video memory to the first pixel. */
  readonly offset: number;
  /** Bytes from one line to the next. */
  readonly stride: number;
}

const BANK_BYTES = 64 * 1024;
const FORMATS: ReadonlyMap<number, { readonly format: number; readonly bytes: number }> = new Map([
  [16, { format: DRM_FORMAT_RGB565, bytes: 2 }],
  [32, { format: DRM_FORMAT_XRGB8888, bytes: 4 }],
]);
const MOST_BPP = 32;

/** Stores every value that the guest writes; {@link plane} interprets them when it is read. */
export class Dispi {
  /** The byte order that the extension selects. As in QEMU's card, it applies to pixels of 32 bits only. */
  isBigEndian = false;
  readonly #vramBytes: number;
  /** The largest mode, which a driver can ask for; pixels. */
  limit: Resolution;
  readonly #registers = new Uint16Array(DISPI_REGISTERS);

  constructor(vramBytes: number, limit: Resolution) {
    this.#vramBytes = vramBytes;
    this.limit = limit;
  }

  reset(): void {
    this.isBigEndian = false;
    this.#registers.fill(0);
  }

  read(index: number): number {
    const asksLimits = (this.#get(VBE_DISPI_INDEX_ENABLE) & VBE_DISPI_GETCAPS) !== 0;
    switch (index) {
      case VBE_DISPI_INDEX_ID:
        return VBE_DISPI_ID5;
      case VBE_DISPI_INDEX_VIDEO_MEMORY_64K:
        return this.#vramBytes / BANK_BYTES;
      case VBE_DISPI_INDEX_XRES:
        return asksLimits ? this.limit.xres : this.#get(index);
      case VBE_DISPI_INDEX_YRES:
        return asksLimits ? this.limit.yres : this.#get(index);
      case VBE_DISPI_INDEX_BPP:
        return asksLimits ? MOST_BPP : this.#get(index);
      case VBE_DISPI_INDEX_VIRT_HEIGHT:
        return this.#virtualHeight();
      default:
        return this.#get(index);
    }
  }

  write(index: number, value: number): void {
    if (index !== VBE_DISPI_INDEX_ID && index < DISPI_REGISTERS) this.#registers[index] = value;
  }

  /** Saves what the guest has written. */
  save(state: StateWriter): void {
    for (const value of this.#registers) state.u16(value);
    state.u8(this.isBigEndian ? 1 : 0);
  }

  /** Reads what {@link save} has written: the guest could have written any of it. Returns a function that takes it over. */
  readState(state: StateReader): () => void {
    const registers = Array.from(this.#registers, () => state.u16());
    const isBigEndian = state.flag('the byte order');
    return () => {
      for (const [index, value] of registers.entries()) this.write(index, value);
      this.isBigEndian = isBigEndian;
    };
  }

  #get(index: number): number {
    return this.#registers[index] ?? 0;
  }

  #stride(): number {
    const { bytes } = FORMATS.get(this.#get(VBE_DISPI_INDEX_BPP)) ?? { bytes: 0 };
    return Math.max(this.#get(VBE_DISPI_INDEX_XRES), this.#get(VBE_DISPI_INDEX_VIRT_WIDTH)) * bytes;
  }

  /** Number of lines that fit in video memory, whatever the guest requested. */
  #virtualHeight(): number {
    const stride = this.#stride();
    return stride === 0 ? 0 : Math.min(0xffff, Math.floor(this.#vramBytes / stride));
  }

  /** The plane that is scanned out; undefined while the card is disabled, or its mode is invalid. */
  get plane(): Plane | undefined {
    const kind = FORMATS.get(this.#get(VBE_DISPI_INDEX_BPP));
    if ((this.#get(VBE_DISPI_INDEX_ENABLE) & VBE_DISPI_ENABLED) === 0 || kind === undefined) return undefined;
    const [width, height] = [this.#get(VBE_DISPI_INDEX_XRES), this.#get(VBE_DISPI_INDEX_YRES)];
    if (width === 0 || height === 0) return undefined;
    const stride = this.#stride();
    const offset =
      this.#get(VBE_DISPI_INDEX_X_OFFSET) * kind.bytes + this.#get(VBE_DISPI_INDEX_Y_OFFSET) * stride;
    const end = offset + (height - 1) * stride + width * kind.bytes;
    const isSwapped = this.isBigEndian && kind.format === DRM_FORMAT_XRGB8888;
    const drmFormat = isSwapped ? DRM_FORMAT_BGRX8888 : kind.format;
    return end > this.#vramBytes ? undefined : { width, height, drmFormat, offset, stride };
  }
}

/**
 * The plane that the registers of a card define, whoever has them.
 * @param read the register with an index
 * @param vramBytes of video memory; a plane that extends past it is undefined
 */
export function planeOf(read: (index: number) => number, vramBytes: number): Plane | undefined {
  const dispi = new Dispi(vramBytes, { xres: 0, yres: 0 });
  for (let index = 0; index < DISPI_REGISTERS; index++) dispi.write(index, read(index));
  return dispi.plane;
}
