/** The region through which the host replaces the card's screen: struct vfio_region_gfx_edid, then the EDID. */
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import {
  VFIO_DEVICE_GFX_LINK_STATE_DOWN,
  VFIO_DEVICE_GFX_LINK_STATE_UP,
  VFIO_REGION_SUBTYPE_GFX_EDID,
  VFIO_REGION_TYPE_GFX,
} from '../../vfio/uapi.js';
import type { TypedRegion } from '../mdev/pci-regions.js';
import type { StateReader, StateWriter } from '../mdev/state-fields.js';
import { EDID_BYTES } from './spec.js';

// Offsets in struct vfio_region_gfx_edid.
export const EDID_OFFSET = 0;
export const EDID_MAX_SIZE = 4;
export const EDID_SIZE = 8;
export const MAX_XRES = 12;
export const MAX_YRES = 16;
export const LINK_STATE = 20;
const HEADER_BYTES = 24;

/** Offset of the EDID in the region. */
export const EDID_BLOB_AT = 64;
export const EDID_REGION_BYTES = EDID_BLOB_AT + EDID_BYTES;

/** A mode, pixels. */
export interface Resolution {
  readonly xres: number;
  readonly yres: number;
}

const LINK_STATES = [VFIO_DEVICE_GFX_LINK_STATE_UP, VFIO_DEVICE_GFX_LINK_STATE_DOWN];

/** Bytes of a saved region: limits, EDID_SIZE and LINK_STATE, the EDID that is shown, and that of the region. */
export const EDID_STATE_BYTES = 2 + 2 + 2 + 1 + 2 + 2 * EDID_BYTES;

const NO_SCREEN = new Uint8Array(0);

/**
 * The host sets the link down, writes the EDID and its size, and sets the link up; then the guest gets the new EDID.
 */
export class EdidRegion {
  readonly #name: string;
  readonly #bytes = new Uint8Array(EDID_REGION_BYTES);
  readonly #header = new Uint32Array(this.#bytes.buffer, 0, HEADER_BYTES / 4);
  #shown: Uint8Array;

  /** @param limit the largest mode of the card, pixels */
  constructor(name: string, edid: Uint8Array, limit: Resolution) {
    this.#name = name;
    this.#shown = edid;
    this.#bytes.set(edid, EDID_BLOB_AT);
    for (const [at, value] of [
      [EDID_OFFSET, EDID_BLOB_AT],
      [EDID_MAX_SIZE, EDID_BYTES],
      [EDID_SIZE, edid.length],
      [MAX_XRES, limit.xres],
      [MAX_YRES, limit.yres],
      [LINK_STATE, VFIO_DEVICE_GFX_LINK_STATE_UP],
    ] as const) {
      this.#header[at / 4] = value;
    }
  }

  /** The largest mode of the card. */
  get limit(): Resolution {
    return { xres: this.#header[MAX_XRES / 4] as number, yres: this.#header[MAX_YRES / 4] as number };
  }

  /** The EDID that the guest reads; empty while the link is down. */
  get edid(): Uint8Array {
    return this.#shown;
  }

  read(offset: number, data: Uint8Array): void {
    data.set(this.#bytes.subarray(offset, offset + data.length));
  }

  /** @throws SysError EINVAL for a read-only register, a partial write, or an invalid value */
  write(offset: number, data: Uint8Array): void {
    if (offset >= EDID_BLOB_AT) this.#bytes.set(data, offset);
    else if (data.length !== 4) throw this.#invalid('registers have 4 bytes');
    else this.#setRegister(offset, new DataView(data.buffer, data.byteOffset).getUint32(0, true));
  }

  /** Saves all of it, in {@link EDID_STATE_BYTES}. */
  save(state: StateWriter): void {
    const shown = new Uint8Array(EDID_BYTES);
    shown.set(this.#shown);
    const { xres, yres } = this.limit;
    state.u16(xres).u16(yres);
    state.u16(this.#header[EDID_SIZE / 4] as number).u8(this.#header[LINK_STATE / 4] as number);
    state.u16(this.#shown.length).bytes(shown).bytes(this.#bytes.slice(EDID_BLOB_AT));
  }

  /** A region of what {@link save} has written. */
  static load(name: string, state: StateReader): EdidRegion {
    const limit = { xres: state.u16(), yres: state.u16() };
    const [size, link, shownBytes] = [state.u16(), state.u8(), state.u16()];
    if (size > EDID_BYTES || shownBytes > EDID_BYTES) state.fail(`an EDID of more than ${EDID_BYTES} bytes`);
    if (!LINK_STATES.includes(link)) state.fail(`the link state ${link} of its screen`);
    if (limit.xres === 0 || limit.yres === 0) state.fail('a screen without pixels');
    const shown = Uint8Array.from(state.bytes(EDID_BYTES).subarray(0, shownBytes));
    const region = new EdidRegion(name, shown, limit);
    region.#bytes.set(state.bytes(EDID_BYTES), EDID_BLOB_AT);
    region.#header[EDID_SIZE / 4] = size;
    region.#header[LINK_STATE / 4] = link;
    return region;
  }

  #setRegister(at: number, value: number): void {
    if (at === EDID_SIZE) {
      if (value > EDID_BYTES) throw this.#invalid(`an EDID of ${value} bytes, the most is ${EDID_BYTES}`);
    } else if (at === LINK_STATE) {
      const size = this.#header[EDID_SIZE / 4] as number;
      if (value === VFIO_DEVICE_GFX_LINK_STATE_DOWN) this.#shown = NO_SCREEN;
      else if (value === VFIO_DEVICE_GFX_LINK_STATE_UP)
        this.#shown = this.#bytes.slice(EDID_BLOB_AT, EDID_BLOB_AT + size);
      else throw this.#invalid(`link state ${value}`);
    } else {
      throw this.#invalid(`there is no register to write at ${at}`);
    }
    this.#header[at / 4] = value;
  }

  #invalid(hint: string): SysError {
    return new SysError({ call: 'pwrite', target: `${this.#name}, EDID region`, errno: errno.EINVAL, hint });
  }
}

/** The region as a device has it, for the screen that it has now. @param changed called after each write */
export const edidRegion = (screen: () => EdidRegion, changed: () => void = () => {}): TypedRegion => ({
  type: VFIO_REGION_TYPE_GFX,
  subtype: VFIO_REGION_SUBTYPE_GFX_EDID,
  size: EDID_REGION_BYTES,
  read: (offset, data) => screen().read(offset, data),
  write: (offset, data) => {
    screen().write(offset, data);
    changed();
  },
});
