/**
 * What runs in the event thread. A module that wants to serve fds there exports `start`; whoever owns an
 * {@link EventThread} starts it by the module's URL and talks to it by messages. Data paths run in the task itself, so
 * that a doorbell never stops a vCPU.
 */
import type { Transferable } from 'node:worker_threads';

/** What a task is given to live on; event thread only. */
export interface EventContext {
  /**
   * Calls `ready` whenever `fd` becomes readable. With `isEdge` each new signal calls it once, and an eventfd need not
   * be drained; without, it is called again until the fd has been read empty.
   * @throws SysError EPERM for an fd that cannot be polled; EEXIST if it is watched already
   */
  watch(fd: number, ready: () => void, isEdge?: boolean): Disposable;
  /**
   * Calls `ready` as long as `fd` can be written to, or its other end is gone. An fd has one watch at a time: one that is
   * watched for reading, too, is given here by a duplicate.
   * @throws SysError as {@link watch}
   */
  watchWritable(fd: number, ready: () => void): Disposable;
  /**
   * Calls `callback` once, when `ms` have passed on the monotonic clock: never earlier, and later if the thread is busy. It
   * may call `after` again. Disposing the result cancels it, and so does the end of the task. JavaScript's own timers do
   * not run in this thread, which waits in epoll_wait: they throw.
   * @throws RangeError unless `ms` is a number from 0 on
   */
  after(ms: number, callback: () => void): Disposable;
  /** Sends a message to the owner's {@link EventTask.receive}, waking the machine thread from KVM_RUN if need be. */
  notify(message: unknown): void;
}

/** A running task, seen from inside the event thread. */
export interface EventTaskHandlers {
  /** A message from the owner; the result is the reply to {@link EventTask.call}. */
  message(message: unknown): unknown;
  /** After this the task touches no memory and no fd of the owner's any more. */
  stop(): void;
}

/** The export that makes a module an event task. */
export type StartEventTask = (data: unknown, context: EventContext) => EventTaskHandlers;

/** A running task, seen from its owner in the machine thread. Disposing stops it, and returns when it has stopped. */
export interface EventTask extends Disposable {
  /** Sends a message; does not wait. */
  post(message: unknown, transfer?: readonly Transferable[]): void;
  /** Sends a message and waits for the reply. @throws what the task threw, as an Error with its message */
  call(message: unknown): unknown;
  /** Set by the owner: messages from the task, delivered in the machine thread between exits. */
  receive: ((message: unknown) => void) | undefined;
}

/** The event thread, seen from the machine thread. */
export interface EventThread {
  /**
   * Runs the `start` export of a module there, with `data` (structured clone; SharedArrayBuffers are shared).
   * @throws Error if the module cannot be loaded or its `start` throws
   */
  run(module: URL, data: unknown): EventTask;
}
/** Token of the port {@link EventThread}. */
export const EventThread = Symbol('EventThread');
