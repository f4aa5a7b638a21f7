import { type Iova, iova } from '../../sys/address.js';
import { createDmaTable, DmaTableWriter } from '../../vfio/dma-table.js';
import type { DeviceDma } from '../../vfio/driver.js';
import { flipBit, valueAt } from './bytes.js';
import type { Decision, Decisions } from './decisions.js';
import type { MutationAction } from './mutation-log.js';

const ACTIONS = ['flipped', 'flipped', 'torn', 'short', 'repeated', 'late', 'lost'] as const;
/** Most writes that are held back at once, and the longest. */
const MOST_LATE = 16;
const MOST_LATE_BYTES = 1 << 16;
/** The longest write that is kept to be repeated in place of another. */
const MOST_REPEATED_BYTES = 64;
const ALL_MEMORY = { iova: 0, bytes: Number.MAX_SAFE_INTEGER, address: 0, prot: 0 };

/**
 * Guest memory whose contents are not what the device wrote. Its table of maps says that all memory is another process's: a data path
 * in the event thread then leaves its accesses to {@link DeviceDma.rw}, which is mutated here, whatever driver it is of. Nothing is
 * written where the device did not write, and what is not mapped stays out of reach.
 */
export class HostileDma implements DeviceDma {
  readonly table;
  readonly #dma: DeviceDma;
  readonly #decisions: Decisions;
  readonly #isActive: () => boolean;
  readonly #late: { readonly at: Iova; readonly data: Uint8Array }[] = [];
  /** The last write of each length. */
  readonly #written = new Map<number, Uint8Array>();

  constructor(dma: DeviceDma, decisions: Decisions, isActive: () => boolean) {
    this.#dma = dma;
    this.#decisions = decisions;
    this.#isActive = isActive;
    const writer = new DmaTableWriter(createDmaTable(1));
    writer.replace([ALL_MEMORY]);
    this.table = writer.buffer;
  }

  rw(at: Iova, data: Uint8Array, isWrite: boolean): void {
    if (!isWrite) {
      this.#dma.rw(at, data, false);
      return;
    }
    const before = this.#late.splice(0);
    const decision = this.#isActive() ? this.#decisions.decide('dma', 0, Number(at), data.length) : undefined;
    if (decision === undefined || data.length === 0) this.#dma.rw(at, data, true);
    else this.#mutate(at, data, decision);
    if (data.length <= MOST_REPEATED_BYTES) this.#written.set(data.length, data.slice());
    for (const late of before) this.#writeLate(late);
  }

  #mutate(at: Iova, data: Uint8Array, { dice, log }: Decision): void {
    let action: MutationAction = dice.pick(ACTIONS);
    const old = this.#written.get(data.length);
    const canHold = this.#late.length < MOST_LATE && data.length <= MOST_LATE_BYTES;
    if (action === 'repeated' && (old === undefined || Buffer.compare(old, data) === 0)) action = 'flipped';
    if ((action === 'late' || action === 'torn') && !canHold) action = 'short';
    const half = data.length >> 1;
    switch (action) {
      case 'repeated':
        log(action, valueAt(data, 0), valueAt(old as Uint8Array, 0));
        this.#dma.rw(at, old as Uint8Array, true);
        break;
      case 'late':
        log(action);
        this.#late.push({ at, data: data.slice() });
        break;
      case 'torn':
        log(action);
        if (half > 0) this.#dma.rw(at, data.subarray(0, half), true);
        this.#late.push({ at: iova(BigInt(at) + BigInt(half)), data: data.slice(half) });
        break;
      case 'short':
        log(action);
        if (half > 0) this.#dma.rw(at, data.subarray(0, half), true);
        break;
      case 'lost':
        log(action);
        break;
      default: {
        const flipped = data.slice();
        const where = flipBit(flipped, dice);
        log('flipped', valueAt(data, where), valueAt(flipped, where));
        this.#dma.rw(at, flipped, true);
      }
    }
  }

  /** What has been unmapped in the meantime is out of its reach. */
  #writeLate({ at, data }: { readonly at: Iova; readonly data: Uint8Array }): void {
    try {
      this.#dma.rw(at, data, true);
    } catch {
      // as a device's write that the IOMMU stops
    }
  }

  /** A range is about to be unmapped: what is held back for it never arrives. */
  unmap(at: Iova, bytes: bigint): void {
    const kept = this.#late.filter(
      (late) => late.at + BigInt(late.data.length) <= at || late.at >= at + bytes,
    );
    this.#late.splice(0, this.#late.length, ...kept);
  }
}
