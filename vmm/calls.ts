import { errno } from '../sys/errno.js';
import { SysError } from '../sys/error.js';
import { decodeError } from './error-data.js';
import type { CallCommand, MachineCallArgs, MachineCallName, MachineCallResult } from './machine-calls.js';
import type { ReplyEvent } from './protocol.js';

/** Calls that may be unanswered at once: whoever makes them may be slow, or not awaited. */
export const MOST_CALLS = 64;

interface PendingCall {
  readonly command: CallCommand;
  /** Whether a machine has it. */
  isSent: boolean;
  resolve(result: unknown): void;
  reject(error: Error): void;
}

/**
 * The main thread's calls on the machine thread. A restart of the machine fails the calls that it interrupts; those made
 * while there is no machine wait for the next one. Main thread only.
 */
export class Calls {
  readonly #pending = new Map<number, PendingCall>();
  #send: ((command: CallCommand) => void) | undefined;
  #hasEnded = false;
  #failure: Error | undefined;
  #lastId = 0;

  /**
   * Makes a call in the machine thread.
   * @throws SysError ESRCH once the machine has ended; ECONNRESET if it restarts meanwhile; EBUSY while 64 calls are
   *   unanswered; the error of the call; the machine's own error, if that ends it
   */
  call<K extends MachineCallName>(name: K, ...args: MachineCallArgs<K>): Promise<MachineCallResult<K>> {
    return new Promise((resolve, reject) => {
      if (this.#hasEnded) throw this.#failure ?? ended(name);
      if (this.#pending.size >= MOST_CALLS) throw busy(name);
      const command: CallCommand = { kind: 'call', id: ++this.#lastId, name, args };
      const settle = resolve as (result: unknown) => void;
      const call: PendingCall = { command, isSent: false, resolve: settle, reject };
      this.#pending.set(command.id, call);
      this.#trySend(call);
    });
  }

  /** A machine thread has started, which takes commands. Sends it the calls that waited for it. */
  connect(send: (command: CallCommand) => void): void {
    this.#send = send;
    for (const call of this.#pending.values()) this.#trySend(call);
  }

  /** The machine thread has ended, and answers no more; {@link restart} or {@link end} follows. */
  disconnect(): void {
    this.#send = undefined;
  }

  /** Another machine thread will follow: the calls that the last one did not answer fail. */
  restart(): void {
    for (const call of [...this.#pending.values()]) if (call.isSent) this.#fail(call, restarted(call));
  }

  /** No machine will follow: all calls fail. @param failure the error that ended the machine, if one did */
  end(failure: Error | undefined): void {
    this.#hasEnded = true;
    this.#failure = failure;
    for (const call of [...this.#pending.values()]) this.#fail(call, failure ?? ended(call.command.name));
  }

  hear({ id, ...answer }: ReplyEvent): void {
    const call = this.#pending.get(id);
    this.#pending.delete(id);
    if ('error' in answer) call?.reject(decodeError(answer.error));
    else call?.resolve(answer.result);
  }

  #trySend(call: PendingCall): void {
    if (this.#send === undefined) return;
    call.isSent = true;
    try {
      this.#send(call.command);
    } catch (error) {
      this.#fail(call, error as Error); // DataCloneError: an argument that is not plain data
    }
  }

  #fail(call: PendingCall, error: Error): void {
    this.#pending.delete(call.command.id);
    call.reject(error);
  }
}

const ended = (call: string): SysError =>
  new SysError({ call, target: 'the machine', errno: errno.ESRCH, hint: 'the machine has ended' });

const restarted = ({ command }: PendingCall): SysError =>
  new SysError({
    call: command.name,
    target: 'the machine',
    errno: errno.ECONNRESET,
    hint: 'the machine restarted before it answered: repeat the call',
  });

const busy = (call: string): SysError =>
  new SysError({
    call,
    target: 'the machine',
    errno: errno.EBUSY,
    hint: `${MOST_CALLS} calls are unanswered already`,
  });
