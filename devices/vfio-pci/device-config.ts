import { littleEndian } from '../pci/config-space.js';
import type { Region } from './region.js';

/** The device's own configuration space, accessed by 1, 2 or 4 bytes. A failed read returns all-ones. */
export class DeviceConfig {
  readonly #region: Region;
  readonly #buffers: readonly Uint8Array<ArrayBuffer>[] = [1, 2, 3, 4].map((bytes) => new Uint8Array(bytes));

  constructor(region: Region) {
    this.#region = region;
  }

  get size(): number {
    return this.#region.size;
  }

  read(offset: number, bytes: number): number {
    const data = this.#buffers[bytes - 1] as Uint8Array;
    this.#region.read(offset, data);
    return littleEndian(data, 0, bytes);
  }

  write(offset: number, bytes: number, value: number): void {
    const data = this.#buffers[bytes - 1] as Uint8Array;
    for (let i = 0; i < bytes; i++) data[i] = (value >>> (8 * i)) & 0xff;
    this.#region.write(offset, data);
  }
}
