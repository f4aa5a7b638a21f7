/** The two streams of a device's state: the one that is read while it is saved, and the one that is written while it is loaded. */
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { MigrationData, PrecopyInfo } from '../../vfio/feature.js';
import type { PreCopy } from './pre-copy.js';

/**
 * A stream is the pieces of PRE_COPY, each with a header, and then the state, which has none. It begins as no state does: the four bytes
 * below, and the length of the piece, 32 bits, little-endian.
 */
const PIECE_MARK = Buffer.from('PRE\x01', 'latin1');
const PIECE_HEADER_BYTES = PIECE_MARK.length + 4;

const failure = (call: string, name: string, code: keyof typeof errno, hint?: string): SysError =>
  new SysError({ call, target: `migration data of ${name}`, errno: errno[code], hint });

/** The device has left the state that the stream belongs to. */
const ended = (call: string, name: string): SysError =>
  failure(call, name, 'ENODEV', 'the device has left the state that the data belongs to');

/** What is read in PRE_COPY and STOP_COPY. */
export class SavingStream implements MigrationData {
  readonly #name: string;
  readonly #preCopy: PreCopy | undefined;
  /** What is left of what was begun. */
  #current: Uint8Array = new Uint8Array(0);
  #rest: Uint8Array | undefined;
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

  /** The device has stopped: nothing follows `rest`. */
  finish(rest: Uint8Array): void {
    this.#rest = rest;
    this.#isFinal = true;
  }

  /** Makes further calls fail. */
  end(): void {
    this.#isEnded = true;
    this.#current = new Uint8Array(0);
    this.#rest = undefined;
  }

  read(data: Uint8Array): number {
    if (this.#isEnded) throw ended('read', this.#name);
    if (data.length === 0) return 0;
    if (this.#current.length === 0) {
      const next = this.#isFinal ? this.#rest : this.#nextPiece();
      if (this.#isFinal) this.#rest = undefined;
      if (next === undefined && !this.#isFinal) throw failure('read', this.#name, 'ENOMSG');
      this.#current = next ?? this.#current;
    }
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

/** What is written in RESUMING, by somebody who is not trusted. Pieces are taken over as they come, the state when it is asked for. */
export class LoadingStream implements MigrationData {
  readonly #name: string;
  readonly #device: LoadedDevice;
  /** Of a piece that is not whole, or of the state. */
  #parts: Uint8Array[] = [];
  #bytes = 0;
  /** How many of them it takes to know more. */
  #due = PIECE_HEADER_BYTES;
  #pieces = 0;
  #isState: boolean;
  #problem: string | undefined;
  #isEnded = false;

  constructor(name: string, device: LoadedDevice) {
    this.#name = name;
    this.#device = device;
    this.#isState = device.preCopy === undefined;
  }

  /** Whether pieces came before the state. */
  get hasPieces(): boolean {
    return this.#pieces > 0;
  }

  /** What was wrong with a piece. */
  get problem(): string | undefined {
    return this.#problem;
  }

  /** The state so far, without the pieces before it. */
  get state(): Uint8Array {
    return Buffer.concat(this.#parts);
  }

  /** Makes further calls fail. */
  end(): void {
    this.#isEnded = true;
    this.#keep(new Uint8Array(0));
  }

  read(): number {
    throw failure('read', this.#name, 'EBADF', 'the device is loaded, and not saved');
  }

  /** @throws SysError ENOMEM past the longest state or piece, EINVAL for a piece of another device; ENODEV */
  write(data: Uint8Array): void {
    if (this.#isEnded) throw ended('write', this.#name);
    this.#parts.push(Uint8Array.from(data));
    this.#bytes += data.length;
    while (!this.#isState && this.#problem === undefined && this.#bytes >= this.#due) this.#takePiece();
    if (this.#problem !== undefined) throw failure('write', this.#name, 'EINVAL', this.#problem);
    const { stateBytes, preCopy } = this.#device;
    const most = Math.max(stateBytes, preCopy?.mostRestBytes ?? 0);
    if (!this.#isState || this.#bytes <= most) return;
    this.#keep(new Uint8Array(0));
    throw failure('write', this.#name, 'ENOMEM', `the device's state has at most ${most} bytes`);
  }

  #keep(data: Uint8Array): void {
    this.#parts = [data];
    this.#bytes = data.length;
  }

  /** Takes over the piece that is whole, or finds how long it will be, or that what comes is the state. */
  #takePiece(): void {
    const { preCopy } = this.#device;
    const data = Buffer.concat(this.#parts);
    this.#keep(data);
    if (preCopy === undefined || !data.subarray(0, PIECE_MARK.length).equals(PIECE_MARK)) {
      this.#isState = true;
      return;
    }
    const bytes = data.readUInt32LE(PIECE_MARK.length);
    this.#due = PIECE_HEADER_BYTES + bytes;
    if (bytes > preCopy.mostPieceBytes)
      this.#problem = `a piece of ${bytes} bytes, where ${preCopy.mostPieceBytes} are allowed`;
    else if (data.length >= this.#due) {
      this.#problem = preCopy.load(data.subarray(PIECE_HEADER_BYTES, this.#due), this.#pieces++ === 0);
      this.#keep(Uint8Array.from(data.subarray(this.#due)));
      this.#due = PIECE_HEADER_BYTES;
    }
    if (this.#problem !== undefined) this.#keep(new Uint8Array(0));
  }

  precopyInfo(): PrecopyInfo {
    throw failure('VFIO_MIG_GET_PRECOPY_INFO', this.#name, 'EINVAL');
  }

  /** What was written stays written: the device takes it over when it leaves RESUMING. */
  [Symbol.dispose](): void {}
}
