/** The region through which the host replaces the card's screen: struct vfio_region_gfx_edid, then the EDID. */
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { VFIO_DEVICE_GFX_LINK_STATE_DOWN, VFIO_DEVICE_GFX_LINK_STATE_UP } from '../../vfio/uapi.js';
import { EDID_BYTES } from './spec.js';

// Offsets in struct vfio_region_gfx_edid.
const EDID_OFFSET = 0;
const EDID_MAX_SIZE = 4;
const EDID_SIZE = 8;
const MAX_XRES = 12;
const MAX_YRES = 16;
const LINK_STATE = 20;
const HEADER_BYTES = 24;

/** Offset of the EDID in the region. */
export const EDID_BLOB_AT = 64;
export const EDID_REGION_BYTES = EDID_BLOB_AT + EDID_BYTES;

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
  constructor(name: string, edid: Uint8Array, limit: { readonly xres: number; readonly yres: number }) {
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
