/** The end of a move that has the machine. Main thread. */
import { crc32 } from 'node:zlib';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { PreCopyLeft } from '../../vfio/assign/index.js';
import type { DevicePiece } from './arriving-devices.js';
import { FRAME, type FrameStream, PIECE_BYTES } from './frames.js';
import type { MovedMemory } from './moved-memory.js';
import { countPages, dirtyRuns, PAGE_BYTES, pageBitmap, zeroRuns } from './pages.js';

/** How {@link VirtualMachine.migrateTo} moves. */
export interface MoveOptions {
  /**
   * How long the guest may stand still, in milliseconds: it is stopped once what is left takes no longer, at the rate that there was until
   * then. Infinity stops it at once. Default: 300
   */
  readonly downtimeMs?: number | undefined;
  /** How long to wait for the other end, at any one time, and to read devices in a round, in milliseconds. Default: 30,000 */
  readonly timeoutMs?: number | undefined;
  /** Ends the move; the machine runs on here. Once the other end has been told to go on, it is too late. */
  readonly signal?: AbortSignal | undefined;
  /** Called at the end of each round, and about ten times a second during it. */
  readonly progress?: ((progress: MoveProgress) => void) | undefined;
}

/** How far a move has come. */
export interface MoveProgress {
  /** From 1 on. The first one copies all of memory, each later one what was written during the one before. */
  readonly round: number;
  /** Bytes of memory, and of devices that are read while they run, that are still to be sent, as far as is known. */
  readonly remainingBytes: number;
  /** Bytes sent in all. */
  readonly sentBytes: number;
  /** Of this round. */
  readonly bytesPerSecond: number;
  /** Whether the guest stands still. */
  readonly isStopped: boolean;
}

/** What a move took. */
export interface MoveResult {
  /** Rounds while the guest ran, and the one while it stood still. */
  readonly rounds: number;
  /** Bytes sent in all. */
  readonly sentBytes: number;
  /** From the stop of the guest here until it runs there, in milliseconds. */
  readonly downtimeMs: number;
  /** From the beginning to the end, in milliseconds. */
  readonly ms: number;
}

/** What begins a move. */
export interface MoveBegun {
  /** The configuration, for the other end. */
  readonly config: object;
  /** Devices that do not log what they write to memory. */
  readonly unlogged: readonly string[];
}

/** What a running machine has to send. */
export interface MoveLook {
  /** Pages written since the last look, one bit each. */
  readonly dirty: Uint8Array;
  /** What devices with PRE_COPY have. */
  readonly devices: PreCopyLeft;
}

/** What a machine that has stopped still has to send. */
export interface MoveRest {
  /** As encodeSections makes it. */
  readonly state: Uint8Array;
  /** Pages written since the last look. */
  readonly dirty: Uint8Array;
}

/** The machine that moves; the real one is in the machine thread. */
export interface MovingMachine {
  readonly memory: MovedMemory;
  /** Begins to log writes. @throws SysError ENOTSUP for a device that cannot be saved, EBUSY */
  begin(): Promise<MoveBegun>;
  /** What was written since {@link begin} or the last call; a round of the devices begins. */
  look(): Promise<MoveLook>;
  /** The next piece of a device in this round, of {@link PIECE_BYTES} at most; undefined at its end. */
  piece(): Promise<DevicePiece | undefined>;
  /** Stops vCPUs and devices. */
  stop(): Promise<MoveRest>;
  /** Ends the logs; the machine goes on, if it was stopped. */
  abort(): Promise<void>;
  /** It stays stopped, though it may be that nobody else runs it. */
  doubt(): Promise<void>;
  /** Ends the machine: it runs elsewhere. */
  finish(): Promise<void>;
}

const DOWNTIME_MS = 300;
/** Of {@link MoveOptions.timeoutMs}. */
export const TIMEOUT_MS = 30_000;
/** A guest that writes faster than this is not worth more rounds. */
const MOST_ROUNDS = 30;
/** A round of less says nothing about the rate, which is then taken to be this at least. */
const LEAST_MEASURED = 1 << 20;
const LEAST_RATE = 8 << 20;
const PROGRESS_MS = 100;
/** 2: devices are copied while they run ({@link FRAME}.device). */
const FORMAT = 2;

/** @returns the first frame's data */
export function helloOf(format = FORMAT): Buffer {
  const data = Buffer.alloc(12);
  data.write('tsvmove\0', 'latin1');
  data.writeUInt32LE(format, 8);
  return data;
}

/**
 * Moves a machine over a connection. It runs on here unless this resolves, or fails with ENOTRECOVERABLE.
 * @throws SysError of the connection; EPROTO with what the other end says; ETIME if the guest writes faster than the connection carries, or
 *   a device that does not log its writes makes the stop too long; ENOTRECOVERABLE if the other end is lost after the last word: the machine
 *   then stands still here, and may run there; what `signal` is aborted with; of the machine's calls
 */
export async function moveMachine(
  machine: MovingMachine,
  stream: FrameStream,
  options: MoveOptions,
): Promise<MoveResult> {
  const move = new Move(machine, stream, options);
  const abort = () => {
    if (!move.isDecided) stream.cancel(options.signal?.reason as Error);
  };
  options.signal?.addEventListener('abort', abort, { once: true });
  try {
    options.signal?.throwIfAborted();
    return await move.run();
  } catch (error) {
    stream.fail(error);
    throw error;
  } finally {
    options.signal?.removeEventListener('abort', abort);
  }
}

class Move {
  readonly #machine: MovingMachine;
  readonly #stream: FrameStream;
  readonly #options: MoveOptions;
  readonly #begun = performance.now();
  /** The other end has been told to go on, or is about to be. */
  isDecided = false;
  #round = 0;
  #rate = 0;
  #shown = 0;

  constructor(machine: MovingMachine, stream: FrameStream, options: MoveOptions) {
    this.#machine = machine;
    this.#stream = stream;
    this.#options = options;
  }

  async run(): Promise<MoveResult> {
    const begun = await this.#machine.begin();
    let rest: { readonly at: number };
    try {
      rest = await this.#untilTheLastWord(begun);
    } catch (error) {
      await this.#machine.abort();
      throw error;
    }
    this.isDecided = true;
    try {
      await this.#stream.send(FRAME.go);
      await this.#stream.next(FRAME.running);
    } catch (error) {
      await this.#machine.doubt();
      throw inDoubt(error);
    }
    const now = performance.now();
    await this.#machine.finish();
    return {
      ...{ rounds: this.#round, sentBytes: this.#stream.sentBytes },
      ...{ downtimeMs: now - rest.at, ms: now - this.#begun },
    };
  }

  async #untilTheLastWord({ config, unlogged }: MoveBegun): Promise<{ readonly at: number }> {
    const stream = this.#stream;
    await stream.send(FRAME.hello, helloOf());
    await stream.send(FRAME.config, Buffer.from(JSON.stringify(config)));
    await stream.next(FRAME.ready);
    const { memory } = this.#machine;
    const limit = this.#options.downtimeMs ?? DOWNTIME_MS;
    let dirty = pageBitmap(memory.bytes).fill(0xff);
    while (limit !== Number.POSITIVE_INFINITY) {
      const sent = await this.#send(dirty, this.#round === 0, false);
      const look = await this.#machine.look();
      dirty = look.dirty as typeof dirty;
      // Such a device may have written to any page: at the end all that is in use is sent once more.
      const pages = unlogged.length > 0 ? sent : countPages(dirty, memory.bytes) * PAGE_BYTES;
      const left = pages + look.devices.bytes;
      const ms = this.#rate === 0 ? 0 : (left / this.#rate) * 1000;
      this.#show(left, false);
      if (ms <= limit && look.devices.initialBytes === 0) break;
      if (unlogged.length > 0 && look.devices.initialBytes === 0)
        throw tooMuch(unlogged, left, this.#rate, ms, limit);
      if (this.#round >= MOST_ROUNDS) throw tooFast(look.devices.initialBytes, left, this.#rate, ms, limit);
    }
    const at = performance.now();
    const { state, dirty: last } = await this.#machine.stop();
    for (let i = 0; i < dirty.length; i++) dirty[i] = (dirty[i] as number) | (last[i] as number);
    await this.#send(dirty, this.#round === 0, true);
    for (let from = 0; from < state.length; from += PIECE_BYTES)
      await stream.send(FRAME.state, state.subarray(from, from + PIECE_BYTES));
    const crc = Buffer.alloc(4);
    crc.writeUInt32LE(crc32(state));
    await stream.send(FRAME.end, crc);
    await stream.next(FRAME.loaded);
    await stream.check();
    this.#options.signal?.throwIfAborted();
    return { at };
  }

  /** Sends the pages of a bitmap. Returns how many bytes were not zero. @param isFirst what is zero there already is left out */
  async #send(dirty: Uint8Array, isFirst: boolean, isStopped: boolean): Promise<number> {
    const { memory } = this.#machine;
    this.#round++;
    const begun = performance.now();
    const before = this.#stream.sentBytes;
    let left = countPages(dirty, memory.bytes) * PAGE_BYTES;
    let full = 0;
    if (!isStopped) await this.#sendDevices(left);
    for (const piece of dirtyRuns(dirty, memory.bytes, PIECE_BYTES)) {
      for (const { at, bytes, isZero } of zeroRuns(memory, piece.at, piece.bytes)) {
        const head = Buffer.alloc(isZero ? 16 : 8);
        head.writeBigUInt64LE(BigInt(at), 0);
        if (!isZero) {
          full += bytes;
          await this.#stream.send(FRAME.pages, head, memory.slice(at, bytes));
        } else if (!isFirst) {
          head.writeBigUInt64LE(BigInt(bytes), 8);
          await this.#stream.send(FRAME.zeros, head);
        }
      }
      left -= piece.bytes;
      const now = performance.now();
      if (now - this.#shown < PROGRESS_MS) continue;
      this.#measure(before, begun);
      this.#show(left, isStopped);
      await new Promise(setImmediate); // the loop of events is others', too
    }
    this.#measure(before, begun);
    return full;
  }

  /** Sends what devices have in this round, or in the time that there is for one. @param left bytes of the round that follow */
  async #sendDevices(left: number): Promise<void> {
    const { timeoutMs = TIMEOUT_MS } = this.#options;
    const end = performance.now() + timeoutMs;
    for (let piece = await this.#machine.piece(); piece !== undefined; piece = await this.#machine.piece()) {
      const place = Buffer.from(piece.place, 'latin1');
      await this.#stream.send(FRAME.device, Uint8Array.of(place.length), place, piece.data);
      const now = performance.now();
      if (now > end) return; // a provider that answers late: what it has left is for the next round
      if (now - this.#shown >= PROGRESS_MS) this.#show(left, false);
    }
  }

  #measure(before: number, begun: number): void {
    const sent = this.#stream.sentBytes - before;
    const rate = (sent / Math.max(performance.now() - begun, 0.001)) * 1000;
    if (sent >= LEAST_MEASURED) this.#rate = rate;
    else if (this.#rate === 0) this.#rate = Math.max(rate, LEAST_RATE);
  }

  #show(remainingBytes: number, isStopped: boolean): void {
    this.#shown = performance.now();
    this.#options.progress?.({
      ...{ round: this.#round, remainingBytes, isStopped },
      ...{ sentBytes: this.#stream.sentBytes, bytesPerSecond: this.#rate },
    });
  }
}

const mib = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`;

const tooMuch = (
  devices: readonly string[],
  left: number,
  rate: number,
  ms: number,
  limit: number,
): SysError =>
  late(
    `${devices.join(', ')} cannot tell what it writes to memory, so that all of it, ${mib(left)}, is copied while the guest stands still`,
    rate,
    ms,
    limit,
  );
const tooFast = (initial: number, left: number, rate: number, ms: number, limit: number): SysError => {
  const what =
    initial > 0
      ? `devices still have ${initial} bytes of their first copies`
      : `the guest still writes ${mib(left)} in each`;
  return late(`after ${MOST_ROUNDS} rounds, ${what}`, rate, ms, limit);
};

const late = (what: string, rate: number, ms: number, limit: number): SysError =>
  new SysError({
    call: 'move',
    target: 'the machine',
    errno: errno.ETIME,
    hint: `${what}: at ${mib(rate)} a second it would stand still for ${Math.ceil(ms)} ms, and ${limit} are allowed (--downtime)`,
  });

const inDoubt = (error: unknown): SysError =>
  new SysError({
    call: 'move',
    target: 'the machine',
    errno: errno.ENOTRECOVERABLE,
    hint:
      `${(error as Error).message}; the other end had all of it, and was told to go on: it may run there. Here it stands still: ` +
      'resume it if it does not run there, and stop it if it does',
  });
