/** What of a device's maps the kernel can be given, and where a queue's rings are in it. */
import { PROT_READ, PROT_WRITE } from '../../sys/mapping.js';
import type { DmaTableEntry } from '../../vfio/dma-table.js';
import type { KernelRegion } from '../net/index.js';
import type { QueueSetup } from '../virtio/queue-setup.js';
import { ringBytes } from '../virtio/split-queue.js';

const READ_WRITE = PROT_READ | PROT_WRITE;

/**
 * The maps that may be given to the kernel, whose regions have no rights of their own: those that the device may both read and
 * write, and that are in this process.
 */
export const givenMaps = (maps: readonly DmaTableEntry[]): DmaTableEntry[] =>
  maps.filter(({ address, prot }) => address !== 0 && (prot & READ_WRITE) === READ_WRITE);

/** As few regions as the maps, sorted by IOVA, can be merged to. */
export function regionsOf(maps: readonly DmaTableEntry[]): KernelRegion[] {
  const regions: KernelRegion[] = [];
  for (const { iova, bytes, address } of maps) {
    const last = regions.at(-1);
    const meets =
      last !== undefined && last.iova + last.bytes === iova && last.address + last.bytes === address;
    if (meets) regions[regions.length - 1] = { ...last, bytes: last.bytes + bytes };
    else regions.push({ iova, bytes, address });
  }
  return regions;
}

/** Addresses of a queue's rings in this process. */
export interface RingAddresses {
  readonly desc: number;
  readonly avail: number;
  readonly used: number;
}

/** The rings' I/O virtual addresses and lengths. */
export function ringsOf({ size, desc, driver, device }: QueueSetup) {
  const { descBytes, availBytes, usedBytes } = ringBytes(size);
  // The two events lie behind the rings; 2.7.6, 2.7.8
  return [
    { iova: desc, bytes: descBytes },
    { iova: driver, bytes: availBytes },
    { iova: device, bytes: usedBytes },
  ] as const;
}

/** Where a queue's rings are; undefined unless each of them is whole in one region. */
export function locateRings(setup: QueueSetup, regions: readonly KernelRegion[]): RingAddresses | undefined {
  const [desc, avail, used] = ringsOf(setup).map(({ iova, bytes }) => {
    const region = regions.find((each) => iova >= each.iova && iova + bytes <= each.iova + each.bytes);
    return region === undefined ? undefined : region.address + iova - region.iova;
  });
  if (desc === undefined || avail === undefined || used === undefined) return undefined;
  return { desc, avail, used };
}

/** Whether a range meets another one. */
export const overlaps = (
  a: { readonly iova: number; readonly bytes: number },
  b: { readonly iova: number; readonly bytes: number },
): boolean => a.iova < b.iova + b.bytes && b.iova < a.iova + a.bytes;
