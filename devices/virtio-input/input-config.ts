import type { InputKind } from './kinds.js';
import {
  ABS_MAX_VALUE,
  BUS_VIRTUAL,
  CONFIG_DATA,
  CONFIG_DATA_BYTES,
  CONFIG_SELECT,
  CONFIG_SIZE,
  CONFIG_SUBSEL,
  EV_ABS,
  VIRTIO_INPUT_CFG_ABS_INFO,
  VIRTIO_INPUT_CFG_EV_BITS,
  VIRTIO_INPUT_CFG_ID_DEVIDS,
  VIRTIO_INPUT_CFG_ID_NAME,
  VIRTIO_INPUT_CFG_ID_SERIAL,
} from './spec.js';

/** The vendor of virtio's PCI functions. */
const VENDOR = 0x1af4;
const VERSION = 1;
const NOTHING = new Uint8Array();

/** Device configuration structure: what the driver selects, of what never changes. 5.8.5 */
export class InputConfig {
  readonly #kind: InputKind;
  readonly #serial: string;
  #select = 0;
  #subsel = 0;
  #data = NOTHING;

  constructor(kind: InputKind, serial: string) {
    this.#kind = kind;
    this.#serial = serial;
  }

  /** What the driver has selected. */
  get selected(): { readonly select: number; readonly subsel: number } {
    return { select: this.#select, subsel: this.#subsel };
  }

  select(select: number, subsel: number): void {
    this.#select = select;
    this.#subsel = subsel;
    this.#data = this.#find();
  }

  /** Value of 1, 2 or 4 bytes; all-ones past the structure. */
  read(offset: number, bytes: number): number {
    let value = 0;
    for (let i = bytes - 1; i >= 0; i--) value = value * 256 + this.#byte(offset + i);
    return value;
  }

  write(offset: number, bytes: number, value: number): void {
    if (offset > CONFIG_SUBSEL) return;
    const isBoth = bytes > 1;
    const select = offset === CONFIG_SELECT ? value & 0xff : this.#select;
    const subsel = offset === CONFIG_SUBSEL ? value & 0xff : isBoth ? (value >>> 8) & 0xff : this.#subsel;
    this.select(select, subsel);
  }

  #byte(at: number): number {
    if (at === CONFIG_SELECT) return this.#select;
    if (at === CONFIG_SUBSEL) return this.#subsel;
    if (at === CONFIG_SIZE) return this.#data.length;
    return at < CONFIG_DATA + CONFIG_DATA_BYTES ? (this.#data[at - CONFIG_DATA] ?? 0) : 0xff;
  }

  #find(): Uint8Array<ArrayBuffer> {
    const { name, product, codes } = this.#kind;
    switch (this.#select) {
      case VIRTIO_INPUT_CFG_ID_NAME:
        return this.#subsel === 0 ? text(name) : NOTHING;
      case VIRTIO_INPUT_CFG_ID_SERIAL:
        return this.#subsel === 0 ? text(this.#serial) : NOTHING;
      case VIRTIO_INPUT_CFG_ID_DEVIDS:
        return this.#subsel === 0 ? words(2, [BUS_VIRTUAL, VENDOR, product, VERSION]) : NOTHING;
      case VIRTIO_INPUT_CFG_EV_BITS:
        return bitmap(codes.get(this.#subsel) ?? []);
      case VIRTIO_INPUT_CFG_ABS_INFO:
        // Minimum, maximum, fuzz, flat, resolution.
        return codes.get(EV_ABS)?.includes(this.#subsel) ? words(4, [0, ABS_MAX_VALUE, 0, 0, 0]) : NOTHING;
      default:
        // PROP_BITS, too: none of the kinds has a property.
        return NOTHING;
    }
  }
}

const text = (value: string): Uint8Array<ArrayBuffer> =>
  new TextEncoder().encode(value).slice(0, CONFIG_DATA_BYTES);

/** Numbers of 2 or 4 bytes each, little-endian. */
function words(bytes: 2 | 4, values: readonly number[]): Uint8Array<ArrayBuffer> {
  const view = new DataView(new ArrayBuffer(bytes * values.length));
  for (const [i, value] of values.entries())
    if (bytes === 2) view.setUint16(2 * i, value, true);
    else view.setUint32(4 * i, value, true);
  return new Uint8Array(view.buffer);
}

function bitmap(codes: readonly number[]): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(codes.length === 0 ? 0 : Math.floor(Math.max(...codes) / 8) + 1);
  for (const code of codes) bytes[code >> 3] = (bytes[code >> 3] as number) | (1 << (code & 7));
  return bytes;
}
