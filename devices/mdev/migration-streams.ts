/** The two streams of a device's state: the one that is read while it is saved, and the one that is written while it is loaded. */
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { GrowingBytes } from '../../sys/growing-bytes.js';
import type { MigrationData, PrecopyInfo } from '../../vfio/feature.js';
import type { PreCopy } from './pre-copy.js';

/**
 * A stream is the pieces of PRE_COPY, each with a header, and then the state, which has none. It begins as no state does: the four bytes
 * below, and the length of the piece, 32 bits, little-endian.
 */
const PIECE_MARK = Buffer.from('PRE\x01', 'latin1');
/** Before each piece. */
export const PIECE_HEADER_BYTES = PIECE_MARK.length + 4;

const failure = (call: string, name: string, code: keyof typeof errno, hint?: string): SysError =>
  new SysError({ call, target: `migration data of ${name}`, errno: errno[code], hint });

/** The device has left the state that the stream belongs to. */
const ended = (call: string, name: string): SysError =>
  failure(call, name, 'ENODEV', 'the device has left the state that the data belongs to');

/**
 * The state of a stopped device: its parts, one after the other, if it has several. They may be views of its memory, which are read until
 * the state that they belong to ends: so a large memory need not be copied at once.
 */
export type SavedState = Uint8Array | readonly Uint8Array[];

/** What is read in PRE_COPY and STOP_COPY. */
export class SavingStream implements MigrationData {
  readonly #name: string;
  readonly #preCopy: PreCopy | undefined;
  /** What is left of what was begun. */
  #current: Uint8Array = new Uint8Array(0);
  /** Of the stopped device, and how many parts of it were begun. */
  #rest: readonly Uint8Array[] = [];
  #begun = 0;
  #hasPieces = false;
  #isFinal = false;
  #isEnded = false;

  /** @param preCopy of a device that runs; without it, {@link finish} gives all of the state */
  constructor(name: string, preCopy?: PreCopy) {
    this.#name = name;
    this.#preCopy = preCopy;
  }

  /** Whether a piece was read, or begun. */
  get hasPieces(): boolean {
    return this.#hasPieces;
  }

  /** The device has stopped: nothing follows `rest`, of which each part is read when it is its turn. */
  finish(rest: SavedState): void {
    this.#rest = rest instanceof Uint8Array ? [rest] : rest;
    this.#isFinal = true;
  }

  /** Makes further calls fail. */
  end(): void {
    this.#isEnded = true;
    this.#current = new Uint8Array(0);
    this.#rest = [];
  }

  read(data: Uint8Array): number {
    if (this.#isEnded) throw ended('read', this.#name);
    if (data.length === 0) return 0;
    if (this.#current.length === 0 && !this.#isFinal) {
      const next = this.#nextPiece();
      if (next === undefined) throw failure('read', this.#name, 'ENOMSG');
      this.#current = next;
    }
    let got = this.#take(data);
    while (this.#isFinal && got < data.length && this.#begun < this.#rest.length) {
      this.#current = this.#rest[this.#begun++] as Uint8Array;
      got += this.#take(data.subarray(got));
    }
    return got;
  }

  #take(data: Uint8Array): number {
    const got = this.#current.subarray(0, data.length);
    data.set(got);
    this.#current = this.#current.subarray(got.length);
    return got.length;
  }

  #nextPiece(): Uint8Array | undefined {
    const piece = this.#preCopy?.next();
    if (piece === undefined) return undefined;
    this.#hasPieces = true;
    const bytes = Buffer.alloc(4);
    bytes.writeUInt32LE(piece.length);
    return Buffer.concat([PIECE_MARK, bytes, piece]);
  }

  write(): void {
    throw failure('write', this.#name, 'EBADF', 'the device is saved, and not loaded');
  }

  precopyInfo(): PrecopyInfo {
    const call = 'VFIO_MIG_GET_PRECOPY_INFO';
    if (this.#isEnded) throw ended(call, this.#name);
    if (this.#preCopy === undefined || this.#isFinal) throw failure(call, this.#name, 'EINVAL');
    const { initialBytes, dirtyBytes } = this.#preCopy.left();
    return { initialBytes, dirtyBytes: dirtyBytes + BigInt(this.#current.length) };
  }

  /** What was read stays read: the state that it belongs to goes on. */
  [Symbol.dispose](): void {}
}

/** What takes over what a {@link LoadingStream} gets. */
export interface LoadedDevice {
  /** Most bytes of its state, without pieces. */
  readonly stateBytes: number;
  readonly preCopy?: PreCopy | undefined;
}

/** Most bytes of a state that is loaded, without the pieces of PRE_COPY before it. */
export const mostStateBytes = ({ stateBytes, preCopy }: LoadedDevice): number =>
  Math.max(stateBytes, preCopy?.mostRestBytes ?? 0);

/** What is written in RESUMING, by somebody who is not trusted. Pieces are taken over as they come, the state when it is asked for. */
export class LoadingStream implements MigrationData {
  readonly #name: string;
  readonly #device: LoadedDevice;
  /** Of a piece that is not whole, or of the state: in one block, as one who writes byte by byte would else fill the memory. */
  readonly #kept = new GrowingBytes();
  #pieces = 0;
  #isState = false;
  #problem: string | undefined;
  #isEnded = false;

  constructor(name: string, device: LoadedDevice) {
    this.#name = name;
    this.#device = device;
    if (device.preCopy === undefined) this.#beginState();
  }

  /** Whether pieces came before the state. */
  get hasPieces(): boolean {
    return this.#pieces > 0;
  }

  /** What was wrong with a piece. */
  get problem(): string | undefined {
    return this.#problem;
  }

  /** The state so far, without the pieces before it: a view, until the next write. */
  get state(): Uint8Array {
    return this.#kept.bytes;
  }

  /** Makes further calls fail. */
  end(): void {
    this.#isEnded = true;
    this.#kept.clear();
  }

  read(): number {
    throw failure('read', this.#name, 'EBADF', 'the device is loaded, and not saved');
  }

  /** @throws SysError ENOMEM past the longest state or piece, EINVAL for a piece of another device; ENODEV */
  write(data: Uint8Array): void {
    if (this.#isEnded) throw ended('write', this.#name);
    if (this.#problem === undefined) this.#kept.append(data);
    while (!this.#isState && this.#problem === undefined && this.#takePiece());
    if (this.#problem !== undefined) {
      this.#kept.clear();
      throw failure('write', this.#name, 'EINVAL', this.#problem);
    }
    const most = mostStateBytes(this.#device);
    if (!this.#isState || this.#kept.length <= most) return;
    this.#kept.clear();
    throw failure('write', this.#name, 'ENOMEM', `the device's state has at most ${most} bytes`);
  }

  #beginState(): void {
    this.#isState = true;
    this.#kept.reserve(mostStateBytes(this.#device));
  }

  /** Takes over a piece, or finds that what comes is the state. Returns false if that takes more bytes. */
  #takePiece(): boolean {
    const { preCopy } = this.#device;
    const { bytes: data } = this.#kept;
    if (data.length < PIECE_HEADER_BYTES) return false;
    if (preCopy === undefined || !PIECE_MARK.equals(data.subarray(0, PIECE_MARK.length))) {
      this.#beginState();
      return true;
    }
    const bytes = Buffer.from(data.buffer, data.byteOffset, data.length).readUInt32LE(PIECE_MARK.length);
    const end = PIECE_HEADER_BYTES + bytes;
    if (bytes > preCopy.mostPieceBytes)
      this.#problem = `a piece of ${bytes} bytes, where ${preCopy.mostPieceBytes} are allowed`;
    else if (data.length < end) return false;
    else {
      this.#problem = preCopy.load(data.subarray(PIECE_HEADER_BYTES, end), this.#pieces++ === 0);
      this.#kept.drop(end);
    }
    return true;
  }

  precopyInfo(): PrecopyInfo {
    throw failure('VFIO_MIG_GET_PRECOPY_INFO', this.#name, 'EINVAL');
  }

  /** What was written stays written: the device takes it over when it leaves RESUMING. */
  [Symbol.dispose](): void {}
}
