/** A transfer of the card's DMA engine, piece by piece, over whatever leads to the guest's memory. */
import { littleEndian } from '../pci/config-space.js';
import {
  DMA_CHECK,
  DMA_COPY,
  DMA_FILL,
  DMA_SCATTER,
  MOST_DMA_BYTES,
  MOST_SCATTER_ENTRIES,
  SCATTER_ENTRY_BYTES,
} from './spec.js';

/** What the registers say when a transfer begins. Addresses are IOVAs. */
export interface TransferProgram {
  readonly command: number;
  readonly source: bigint;
  readonly target: bigint;
  readonly length: number;
  readonly value: number;
}

/** The way to the guest's memory. Both return false if part of the range is not mapped, or not for this direction. */
export interface TransferMemory {
  read(iova: number, data: Uint8Array): boolean;
  write(iova: number, data: Uint8Array): boolean;
}

/** Bytes of a piece: an unmap waits for one. */
export const PIECE_BYTES = 64 << 10;
/** An IOVA space of 2^53 bytes holds every guest; what lies above is not mapped. */
const END = 2n ** 53n;

interface Segment {
  readonly source: bigint;
  readonly target: bigint;
  readonly length: number;
}

/** Begins with the first {@link step}, which may be called until it says that the transfer has ended. */
export class Transfer {
  readonly #program: TransferProgram;
  readonly #memory: TransferMemory;
  readonly #piece: Uint8Array;
  readonly #crc32 = process.getBuiltinModule('node:zlib').crc32; // every machine has this file, and few move anything
  #segments: readonly Segment[] | undefined;
  #index = 0;
  #done = 0;
  /** Bytes moved so far. */
  moved = 0;
  /** CRC-32 of them. */
  crc = 0;

  constructor(program: TransferProgram, memory: TransferMemory) {
    this.#program = program;
    this.#memory = memory;
    this.#piece = new Uint8Array(PIECE_BYTES);
    if (program.command === DMA_FILL) this.#piece.fill(program.value & 0xff);
  }

  /** Moves a piece. */
  step(): 'more' | 'done' | 'error' {
    this.#segments ??= this.#plan();
    if (this.#segments === undefined) return 'error';
    const segment = this.#segments[this.#index];
    if (segment === undefined) return 'done';
    const piece = this.#piece.subarray(0, Math.min(PIECE_BYTES, segment.length - this.#done));
    if (!this.#move(segment, piece)) return 'error';
    this.moved += piece.length;
    this.crc = this.#crc32(piece, this.crc);
    this.#done += piece.length;
    if (this.#done < segment.length) return 'more';
    this.#index++;
    this.#done = 0;
    return this.#index < this.#segments.length ? 'more' : 'done';
  }

  #move({ source, target }: Segment, piece: Uint8Array): boolean {
    const { command } = this.#program;
    const [from, to] = [source, target].map((each) => this.#placeOf(each, piece.length));
    if (command !== DMA_FILL && (from === undefined || !this.#memory.read(from, piece))) return false;
    return command === DMA_CHECK || (to !== undefined && this.#memory.write(to, piece));
  }

  /** Where the next piece lies; undefined beyond all memory. */
  #placeOf(start: bigint, bytes: number): number | undefined {
    const at = start + BigInt(this.#done);
    return at + BigInt(bytes) <= END ? Number(at) : undefined;
  }

  /** Undefined for a command that there is not, and for a length that it does not take. */
  #plan(): readonly Segment[] | undefined {
    const { command, source, target, length } = this.#program;
    if (command === DMA_SCATTER) return this.#readList(source, length);
    const isKnown = command === DMA_COPY || command === DMA_FILL || command === DMA_CHECK;
    return isKnown && isLength(length) ? [{ source, target, length }] : undefined;
  }

  #readList(at: bigint, entries: number): readonly Segment[] | undefined {
    if (entries < 1 || entries > MOST_SCATTER_ENTRIES) return undefined;
    const list = new Uint8Array(entries * SCATTER_ENTRY_BYTES);
    const iova = this.#placeOf(at, list.length);
    if (iova === undefined || !this.#memory.read(iova, list)) return undefined;
    const segments = Array.from({ length: entries }, (_, i) => {
      const word = (number: number) => littleEndian(list, i * SCATTER_ENTRY_BYTES + 4 * number, 4);
      const address = (number: number) => BigInt(word(number)) + (BigInt(word(number + 1)) << 32n);
      return { source: address(0), target: address(2), length: word(4) };
    });
    const total = segments.reduce((sum, segment) => sum + segment.length, 0);
    return isLength(total) && segments.every((segment) => isLength(segment.length)) ? segments : undefined;
  }
}

const isLength = (length: number): boolean => length > 0 && length <= MOST_DMA_BYTES;
