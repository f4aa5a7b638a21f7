import { PAGE_SIZE } from '../../sys/address.js';
import { Mapping } from '../../sys/mapping.js';
import type { BusDevice } from '../contracts.js';
import { errorText, note } from './notes.js';
import type { Region } from './region.js';

/** Bytes of one read: a provider may limit the length of a message. */
const CHUNK = 0x10000;

/**
 * An expansion ROM. Its contents are read from the device once, when the guest first enables it, and served from memory
 * from then on, after resets, too; what cannot be read is all-ones. Writes are ignored. @see vfio_pci_load_rom of QEMU
 */
export class Rom implements BusDevice, Disposable {
  readonly name: string;
  readonly #device: string;
  readonly #region: Region;
  readonly #bytes: number;
  #copy: Mapping | undefined;

  /** @param bytes size of the ROM's BAR */
  constructor(device: string, region: Region, bytes: number) {
    this.name = `${device} ROM`;
    this.#device = device;
    this.#region = region;
    this.#bytes = bytes;
  }

  /** The contents, in whole pages. @throws SysError ENOMEM */
  get copy(): Mapping {
    this.#copy ??= this.#load();
    return this.#copy;
  }

  #load(): Mapping {
    const page = Number(PAGE_SIZE);
    const copy = Mapping.anonymous(Math.ceil(this.#bytes / page) * page);
    const all = copy.view.slice(0, copy.bytes);
    all.fill(0xff);
    let at = 0;
    let reason = 'the device ends it there';
    try {
      while (at < this.#region.size) {
        const got = this.#region.readPart(at, all.subarray(at, Math.min(at + CHUNK, this.#region.size)));
        if (got <= 0) break;
        at += got;
      }
    } catch (error) {
      reason = errorText(error);
    }
    if (at < this.#region.size)
      note(this.#device, 'rom', `the ROM reads as all-ones from 0x${at.toString(16)} on: ${reason}`);
    return copy;
  }

  read(offset: number, data: Uint8Array): void {
    const { view } = this.copy;
    const part = Math.min(data.length, this.#bytes - offset);
    if (part > 0) data.set(view.slice(offset, part));
  }

  write(): void {}

  [Symbol.dispose](): void {
    this.#copy?.[Symbol.dispose]();
    this.#copy = undefined;
  }
}
