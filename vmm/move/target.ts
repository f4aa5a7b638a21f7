/** The end of a move that gets the machine. Main thread. What comes is untrusted. */
import { crc32 } from 'node:zlib';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { decodeSections, type StateSection } from '../../sys/state-sections.js';
import type { DevicePiece } from './arriving-devices.js';
import { FRAME, type FrameStream, PIECE_BYTES } from './frames.js';
import type { MovedMemory } from './moved-memory.js';
import { PAGE_BYTES } from './pages.js';
import { helloOf } from './source.js';

/** The machine that is made of what comes; the real one has a thread of its own. */
export interface ReceivedMachine {
  /** Zeros, of which nobody else has seen anything. */
  readonly memory: MovedMemory;
  /** Loads a piece of a device's state, ahead of the rest. Resolves when it has. @throws SysError of the device; EPROTO for no device */
  device(piece: DevicePiece): Promise<void>;
  /** Loads the state, with the vCPUs and the devices at rest. @throws SysError naming the section */
  load(sections: readonly StateSection[]): Promise<void>;
  /** Devices and vCPUs go on. */
  takeOver(): Promise<void>;
}

/** Above any machine's: each of its devices has 256 MiB at most. */
const MOST_STATE_BYTES = 512 << 20;

/**
 * Receives a machine. When it resolves, the machine runs here, and not where it came from.
 * @param create makes it of a configuration that is not validated
 * @throws SysError of the connection; EPROTO, EBADMSG for what is no machine; of `create` and the machine's calls. The machine is then not
 *   to be used, and runs on where it was
 */
export async function receiveMachine<M extends ReceivedMachine>(
  stream: FrameStream,
  create: (config: Readonly<Record<string, unknown>>) => Promise<M>,
): Promise<M> {
  try {
    return await receive(stream, create);
  } catch (error) {
    stream.fail(error);
    throw error;
  }
}

async function receive<M extends ReceivedMachine>(
  stream: FrameStream,
  create: (config: Readonly<Record<string, unknown>>) => Promise<M>,
): Promise<M> {
  const hello = (await stream.next(FRAME.hello)).data;
  const expected = helloOf();
  if (!hello.subarray(0, 8).equals(expected.subarray(0, 8))) throw wrong('EPROTO', 'it is no moved machine');
  if (!hello.equals(expected))
    throw wrong('ENOTSUP', 'it is of another version: its format is not known here');
  const machine = await create(parseConfiguration((await stream.next(FRAME.config)).data));
  await stream.send(FRAME.ready);
  const state = await receiveContents(stream, machine);
  await machine.load(decodeSections(state, 'the moved machine'));
  await stream.send(FRAME.loaded);
  // Its last word: until then it may go on there.
  await stream.next(FRAME.go);
  await machine.takeOver();
  await stream.send(FRAME.running);
  return machine;
}

function parseConfiguration(data: Buffer): Readonly<Record<string, unknown>> {
  try {
    const config: unknown = JSON.parse(data.toString());
    if (typeof config === 'object' && config !== null && !Array.isArray(config))
      return config as Readonly<Record<string, unknown>>;
  } catch {
    // as below
  }
  throw wrong('EPROTO', 'its configuration is no JSON object');
}

/** Memory and pieces of devices, and then the state, which it returns. */
async function receiveContents(
  stream: FrameStream,
  machine: Pick<ReceivedMachine, 'memory' | 'device'>,
): Promise<Buffer> {
  const { memory } = machine;
  const pieces: Buffer[] = [];
  for (let bytes = 0; ; ) {
    const kinds = pieces.length === 0 ? [FRAME.pages, FRAME.zeros, FRAME.device] : [];
    const { kind, data } = await stream.next(...kinds, FRAME.state, FRAME.end);
    if (kind === FRAME.pages) storePages(memory, data);
    else if (kind === FRAME.zeros) clearPages(memory, data);
    else if (kind === FRAME.device) await machine.device(parsePiece(data));
    else if (kind === FRAME.state) {
      // Each would else be kept, however small.
      if (data.length === 0 || bytes % PIECE_BYTES !== 0)
        throw wrong('EPROTO', 'a piece of its state is short, and not the last one');
      bytes += data.length;
      if (bytes > MOST_STATE_BYTES) throw wrong('EFBIG', `its state has more than ${MOST_STATE_BYTES} bytes`);
      pieces.push(data);
    } else {
      const state = Buffer.concat(pieces);
      if (data.length === 4 && data.readUInt32LE(0) === crc32(state)) return state;
      throw wrong('EBADMSG', 'its state was damaged on the way');
    }
  }
}

function parsePiece(data: Buffer): DevicePiece {
  const end = 1 + (data[0] ?? 0);
  if (data.length <= end) throw wrong('EPROTO', 'a piece of a device without data');
  return { place: data.toString('latin1', 1, end), data: data.subarray(end) };
}

function storePages(memory: MovedMemory, data: Buffer): void {
  if (data.length < 8) throw wrong('EPROTO', 'pages without an address');
  const bytes = data.subarray(8);
  memory.slice(rangeOf(memory, data.readBigUInt64LE(0), BigInt(bytes.length)), bytes.length).set(bytes);
}

function clearPages(memory: MovedMemory, data: Buffer): void {
  if (data.length !== 16) throw wrong('EPROTO', 'zeros without an address and a length');
  const bytes = data.readBigUInt64LE(8);
  // Else a few bytes would keep this thread, which others need, busy with all of the memory.
  if (bytes > BigInt(PIECE_BYTES))
    throw wrong('EPROTO', `${bytes} bytes of zeros, where ${PIECE_BYTES} are allowed`);
  memory.slice(rangeOf(memory, data.readBigUInt64LE(0), bytes), Number(bytes)).fill(0);
}

/** @throws SysError EPROTO unless it is whole pages of the memory */
function rangeOf(memory: MovedMemory, at: bigint, bytes: bigint): number {
  const isWhole = at % BigInt(PAGE_BYTES) === 0n && bytes % BigInt(PAGE_BYTES) === 0n && bytes > 0n;
  if (isWhole && at + bytes <= BigInt(memory.bytes)) return Number(at);
  throw wrong('EPROTO', `${bytes} bytes at ${at} are no pages of ${memory.bytes} bytes of memory`);
}

const wrong = (code: 'EPROTO' | 'ENOTSUP' | 'EBADMSG' | 'EFBIG', hint: string): SysError =>
  new SysError({ call: 'receive', target: 'the moved machine', errno: errno[code], hint });
