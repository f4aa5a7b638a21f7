import type { StateReader, StateWriter } from '../mdev/state-fields.js';
import type { RemoteAccess } from '../virtio/remote-queue.js';
import { MEM_ENTRY_BYTES, MOST_BACKING_ENTRIES } from './spec.js';

/** Guest memory behind a resource: pieces in a row, of which those that meet in the device's eyes are one. */
export class Backing {
  /** What they have in all, bytes. */
  readonly bytes: number;
  readonly #addresses: Float64Array;
  /** Where each piece begins in the row, and where the last one ends. */
  readonly #starts: Float64Array;

  private constructor(addresses: readonly number[], starts: readonly number[]) {
    this.#addresses = Float64Array.from(addresses);
    this.#starts = Float64Array.from(starts);
    this.bytes = starts.at(-1) as number;
  }

  /** Pieces that are kept. */
  get pieces(): number {
    return this.#addresses.length;
  }

  /**
   * The backing that struct virtio_gpu_mem_entry from `at` on describe; undefined if one of them is none. That it is in memory shows when
   * it is read: what is mapped can change meanwhile.
   */
  static read(view: DataView, at: number, entries: number): Backing | undefined {
    const [addresses, starts]: [number[], number[]] = [[], [0]];
    let end = -1;
    let bytes = 0;
    for (let i = 0, from = at; i < entries; i++, from += MEM_ENTRY_BYTES) {
      const address = view.getUint32(from, true) + view.getUint32(from + 4, true) * 2 ** 32;
      const length = view.getUint32(from + 8, true);
      if (length === 0 || address + length > Number.MAX_SAFE_INTEGER) return undefined;
      bytes += length;
      if (address === end) starts.pop();
      else addresses.push(address);
      starts.push(bytes);
      end = address + length;
    }
    return new Backing(addresses, starts);
  }

  /** Copies what is at `offset` of the row, which has as much. @throws SysError of `access` */
  copy(access: RemoteAccess, offset: number, into: Uint8Array): void {
    const starts = this.#starts;
    let piece = this.#pieceAt(offset);
    for (let done = 0; done < into.length; piece++) {
      const within = offset + done - (starts[piece] as number);
      const length = Math.min(into.length - done, (starts[piece + 1] as number) - offset - done);
      access((this.#addresses[piece] as number) + within, into.subarray(done, done + length), false);
      done += length;
    }
  }

  #pieceAt(offset: number): number {
    let [low, high] = [0, this.pieces - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if ((this.#starts[middle] as number) <= offset) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  save(state: StateWriter): void {
    state.u32(this.pieces);
    for (const [i, address] of this.#addresses.entries())
      state.u64(BigInt(address)).u64(BigInt((this.#starts[i + 1] as number) - (this.#starts[i] as number)));
  }

  /** Reads what {@link save} has written. */
  static load(state: StateReader): Backing {
    const pieces = state.u32();
    if (pieces > MOST_BACKING_ENTRIES) state.fail(`a backing of ${pieces} pieces`);
    const [addresses, starts]: [number[], number[]] = [[], [0]];
    for (let i = 0; i < pieces; i++) {
      const [address, bytes] = [Number(state.u64()), Number(state.u64())];
      const start = starts[i] as number;
      if (bytes === 0 || address + bytes > Number.MAX_SAFE_INTEGER || start + bytes > Number.MAX_SAFE_INTEGER)
        state.fail('a piece of a backing that is none');
      addresses.push(address);
      starts.push(start + bytes);
    }
    return new Backing(addresses, starts);
  }
}
