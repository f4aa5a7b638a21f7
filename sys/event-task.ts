/**
 * Event tasks: code that runs in the event thread. A module that handles fds there exports `start`; the owner of an
 * {@link EventThread} runs it by the module's URL and exchanges messages with it. Data paths run in tasks, so that a
 * doorbell never stops a vCPU.
 */
import type { Transferable } from 'node:worker_threads';

/** The event thread's services for a task. Event thread only. */
export interface EventContext {
  /**
   * Calls `ready` when `fd` becomes readable; disposing the result stops that. With `isEdge`, each new signal calls it
   * once, and an eventfd need not be drained. Otherwise it is called again until the fd has been read empty.
   * @throws SysError EPERM for an fd that cannot be polled; EEXIST if it is already watched
   */
  watch(fd: number, ready: () => void, isEdge?: boolean): Disposable;
  /**
   * Calls `ready` while `fd` is writable or its peer has disconnected. An fd has one watch at a time: if it is also
   * watched for reading, pass a duplicate here.
   * @throws SysError as {@link watch}
   */
  watchWritable(fd: number, ready: () => void): Disposable;
  /**
   * Calls `callback` once after `ms` milliseconds of the monotonic clock: never earlier, but later if the thread is
   * busy. The callback may call `after` again. Disposing the result, or the end of the task, cancels it. JavaScript's
   * timers throw in this thread, because it waits in epoll_wait.
   * @throws RangeError unless `ms` is a number from 0 on
   */
  after(ms: number, callback: () => void): Disposable;
  /** Sends a message to the owner's {@link EventTask.receive}; interrupts KVM_RUN if the machine thread is in it. */
  notify(message: unknown): void;
}

/** A running task's handlers, called in the event thread. */
export interface EventTaskHandlers {
  /** Handles a message of the owner; the result is the reply to {@link EventTask.call}. */
  message(message: unknown): unknown;
  /** Ends the task. When it returns, the task must no longer use any memory or fd of its owner. */
  stop(): void;
}

/** The export that makes a module an event task. */
export type StartEventTask = (data: unknown, context: EventContext) => EventTaskHandlers;

/** The owner's handle of a running task, in the machine thread. Disposing stops the task and waits until it has. */
export interface EventTask extends Disposable {
  /** Sends a message; does not wait. */
  post(message: unknown, transfer?: readonly Transferable[]): void;
  /** Sends a message and waits for the reply. @throws Error with the message of the task's exception */
  call(message: unknown): unknown;
  /** Set by the owner to receive the task's messages, in the machine thread between exits. */
  receive: ((message: unknown) => void) | undefined;
}

/** The machine thread's handle of the event thread. */
export interface EventThread {
  /**
   * Runs the `start` export of a module in the event thread, with `data` (structured clone; SharedArrayBuffers are
   * shared).
   * @param thread `own` for a task whose callbacks block, as a disk's do: it gets a thread of its own, which ends with it,
   * so that it holds up no other task. An implementation that has one thread runs it there.
   * @throws Error if the module cannot be loaded or its `start` throws; SysError EAGAIN if the host refuses a thread
   */
  run(module: URL, data: unknown, thread?: 'shared' | 'own'): EventTask;
}
/** Token of the port {@link EventThread}. */
export const EventThread = Symbol('EventThread');
