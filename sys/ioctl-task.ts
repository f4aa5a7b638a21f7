/** An event task that makes ioctls one after the other, as some take seconds. @see ioctl-calls.ts, its owner's side */

import type { StartEventTask } from './event-task.js';
import * as libc from './libc.js';
import { monotonicMs } from './monotonic.js';

/** An ioctl for another thread of this process to make. Plain data. */
export interface IoctlCall {
  /** Stays open until the call is made, or will not be. */
  readonly fd: number;
  /** Its number, as ioctl(2) takes it. */
  readonly request: number;
  /** The structure; what the kernel writes into it is not seen. */
  readonly argument: Uint8Array;
}

/** A call that was made. */
export interface IoctlResult {
  /** What it returned, or the negative errno. */
  readonly result: number;
  /** How long it took, in milliseconds. */
  readonly ms: number;
}

/** The task's data. */
export interface IoctlTaskData {
  readonly calls: readonly IoctlCall[];
}

/** `finish`: makes the calls that are left; `results`: makes none. The reply to both is an {@link IoctlResult} for each that was made. */
export type IoctlTaskMessage = 'finish' | 'results';

/**
 * The task, which turns to the thread's others between two calls.
 * @param ioctl returns the result, or the negative errno
 */
export const createIoctlTask =
  (ioctl: (fd: number, request: number, argument: Uint8Array) => number): StartEventTask =>
  (data, context) => {
    const { calls } = data as IoctlTaskData;
    const results: IoctlResult[] = [];
    const makeNext = (): void => {
      const call = calls[results.length];
      if (call === undefined) return;
      const begun = monotonicMs();
      const result = ioctl(call.fd, call.request, call.argument);
      results.push({ result, ms: monotonicMs() - begun });
    };
    const step = (): void => {
      makeNext();
      if (results.length < calls.length) context.after(0, step);
      else context.notify('made');
    };
    context.after(0, step); // not now, as the owner waits for this function
    return {
      message(message) {
        while ((message as IoctlTaskMessage) === 'finish' && results.length < calls.length) makeNext();
        return results;
      },
      stop: () => {},
    };
  };

export const start = createIoctlTask(libc.ioctlPtr);
