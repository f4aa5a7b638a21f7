/** The two ends of a move, as VirtualMachine has them: connections, time limits, what is closed if it fails. Main thread. */
import type { Calls } from '../calls.js';
import type { ReceiveOptions } from '../machine-types.js';
import { acceptAt, connectTo } from './address.js';
import { FrameStream } from './frames.js';
import type { MovedMemory } from './moved-memory.js';
import { type MoveOptions, type MoveResult, moveMachine, TIMEOUT_MS } from './source.js';
import { type ReceivedMachine, receiveMachine } from './target.js';

/** Moves the machine that answers `calls`. @throws as VirtualMachine.migrateTo */
export async function migrate(
  address: string,
  options: MoveOptions,
  memory: () => MovedMemory,
  calls: Pick<Calls, 'call'>,
): Promise<MoveResult> {
  const { timeoutMs = TIMEOUT_MS, signal } = options;
  using stream = new FrameStream(await connectTo(address, timeoutMs, signal), address, timeoutMs);
  const quietly = (call: Promise<void>) => call.catch(() => {}); // it has ended by itself
  return await moveMachine(
    {
      memory: memory(),
      begin: () => calls.call('moveBegin'),
      look: () => calls.call('moveLook'),
      piece: () => calls.call('movePiece'),
      stop: () => calls.call('moveStop'),
      abort: () => quietly(calls.call('moveAbort')),
      doubt: () => quietly(calls.call('moveDoubt')),
      finish: () => calls.call('moveFinish', address),
    },
    stream,
    options,
  );
}

/**
 * Waits for a machine. @param create makes it of a configuration that is not validated @param discard closes what it has made, if it fails
 * @throws as VirtualMachine.receive
 */
export async function receiveAt<M extends ReceivedMachine>(
  address: string,
  { timeoutMs = TIMEOUT_MS, signal, listening }: ReceiveOptions,
  create: (config: Readonly<Record<string, unknown>>) => Promise<M>,
  discard: () => Promise<void>,
): Promise<M> {
  using stream = new FrameStream(await acceptAt(address, listening, signal), address, timeoutMs);
  const abort = () => stream.cancel(signal?.reason as Error);
  signal?.addEventListener('abort', abort, { once: true });
  try {
    return await receiveMachine(stream, create);
  } catch (error) {
    await discard();
    throw error;
  } finally {
    signal?.removeEventListener('abort', abort);
  }
}
