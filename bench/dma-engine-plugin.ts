/** A plug-in for the DMA benchmark: a device that reads its client's memory on request. */
import type { Plugin } from 'tsvisor';
import { PciRegions, RegionOps } from 'tsvisor/devices';
import type { Iova, MdevInstance, OpenDevice, VendorDriver, VfioDeviceOps } from 'tsvisor/vfio';

// BAR 0, as in vfio-user-peer.c.
const ADDRESS = 0;
const BYTES = 8;
const GO = 12; // number of reads; the write is acknowledged when all are done
const CHECK = 16; // first byte, with the last one above it
const MOST_BYTES = 1 << 20;

class DmaEngine extends RegionOps implements VfioDeviceOps {
  readonly name = 'dma-engine';
  readonly #buffer = new Uint8Array(MOST_BYTES);
  #open: OpenDevice | undefined;
  #address = 0n;
  #bytes = 0;
  protected readonly regions = new PciRegions('dma-engine', {
    bars: [
      {
        index: 0,
        size: 4096,
        read: (offset, data) => this.#check(offset, data),
        write: (offset, data) => this.#command(offset, data),
      },
    ],
  });

  openDevice(open: OpenDevice): void {
    this.#open = open;
  }

  closeDevice(): void {
    this.#open = undefined;
  }

  getIrqInfo(index: number) {
    return { index, flags: 0, count: 0 };
  }

  setIrqs(): void {}

  #check(offset: number, data: Uint8Array): void {
    if (offset === CHECK && data.length === 4)
      data.set([this.#buffer[0] as number, this.#buffer[this.#bytes - 1] as number, 0, 0]);
  }

  #command(offset: number, data: Uint8Array): void {
    const view = new DataView(data.buffer, data.byteOffset, data.length);
    if (offset === ADDRESS) this.#address = view.getBigUint64(0, true);
    else if (offset === BYTES) this.#bytes = Math.min(view.getUint32(0, true), MOST_BYTES);
    else if (offset === GO) this.#read(view.getUint32(0, true));
  }

  #read(times: number): void {
    const piece = this.#buffer.subarray(0, this.#bytes);
    for (let i = 0; i < times; i++) this.#open?.dma.rw(this.#address as Iova, piece, false);
  }
}

const driver: VendorDriver = {
  name: 'dma-engine',
  types: [
    { name: 'dma-engine', description: 'reads its client’s memory', deviceApi: 'vfio-pci', maxInstances: 1 },
  ],
  create: (): MdevInstance => ({ ops: new DmaEngine(), counters: () => ({}), [Symbol.dispose]() {} }),
};

export const plugin: Plugin = { name: 'dma-engine', vendorDrivers: [driver] };
