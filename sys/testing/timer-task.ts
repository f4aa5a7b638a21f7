import { readFileSync } from 'node:fs';
import type { StartEventTask } from '../event-task.js';
import { signalEventfd } from '../eventfd.js';

/** What the task's owner may ask for. */
export type TimerCommand =
  /** Sets timers by name, then cancels one. */
  | { readonly kind: 'set'; readonly ms: Readonly<Record<string, number>>; readonly cancel?: string }
  /** A timer that sets itself again until it has fired `times` times. */
  | { readonly kind: 'repeat'; readonly name: string; readonly ms: number; readonly times: number }
  /** A timer that is always due, and does not report it. */
  | { readonly kind: 'spin'; readonly name: string }
  /** The same timer `count` times; every other one is cancelled; a notice when all others have fired. */
  | { readonly kind: 'flood'; readonly count: number; readonly ms: number }
  | { readonly kind: 'throw'; readonly ms: number }
  | { readonly kind: 'javascript'; readonly timer: 'setTimeout' | 'setInterval' | 'setImmediate' }
  /** Replies with a {@link Usage} of the thread. */
  | { readonly kind: 'usage' };

export interface TimerTaskData {
  /** An eventfd. Each start and each stop sets a timer that signals it. */
  readonly fd?: number;
  readonly failsToStart?: boolean;
}

export interface TimerNotice {
  readonly name: string;
  /** It fired before its time. */
  readonly isEarly: boolean;
}

/** A thread's time so far: what is neither running nor waiting for a CPU is sleep, however busy the machine is. */
export interface Usage {
  /** How often it has gone to sleep. */
  readonly sleeps: number;
  readonly sleptMs: number;
}

function usage(): Usage {
  const [, sleeps] = /^voluntary_ctxt_switches:\s+(\d+)/m.exec(
    readFileSync('/proc/thread-self/status', 'utf8'),
  ) as RegExpExecArray;
  const [ran = 0, waited = 0] = readFileSync('/proc/thread-self/schedstat', 'utf8').split(' ').map(Number);
  return { sleeps: Number(sleeps), sleptMs: performance.now() - (ran + waited) / 1e6 };
}

/** An event task for tests of timers: sets and cancels them, and reports those that fire. */
export const start: StartEventTask = (data, context) => {
  const timers = new Map<string, Disposable>();
  const set = (name: string, ms: number, then?: () => void): Disposable => {
    const begin = performance.now();
    return context.after(ms, () => {
      const notice: TimerNotice = { name, isEarly: performance.now() < begin + ms };
      context.notify(notice);
      then?.();
    });
  };
  const repeat = (name: string, ms: number, times: number): void => {
    timers.set(
      name,
      set(name, ms, () => times > 1 && repeat(name, ms, times - 1)),
    );
  };
  const spin = (name: string): void => {
    timers.set(
      name,
      context.after(0, () => spin(name)),
    );
  };
  const flood = (count: number, ms: number): void => {
    let left = count / 2;
    const all = Array.from({ length: count }, () =>
      context.after(ms, () => {
        if (--left === 0) context.notify({ name: 'flood', isEarly: false } satisfies TimerNotice);
      }),
    );
    for (let i = 0; i < count; i += 2) all[i]?.[Symbol.dispose]();
  };
  const { fd, failsToStart } = data as TimerTaskData;
  const signalSoon = (): void => {
    if (fd !== undefined) context.after(0, () => signalEventfd(fd));
  };
  signalSoon();
  if (failsToStart) throw new Error('told not to start');
  return {
    message(message) {
      const command = message as TimerCommand;
      switch (command.kind) {
        case 'set':
          for (const [name, ms] of Object.entries(command.ms)) timers.set(name, set(name, ms));
          return timers.get(command.cancel ?? '')?.[Symbol.dispose]();
        case 'repeat':
          return repeat(command.name, command.ms, command.times);
        case 'spin':
          return spin(command.name);
        case 'flood':
          return flood(command.count, command.ms);
        case 'throw':
          context.after(command.ms, () => {
            throw new Error('failure in a timer');
          });
          return undefined;
        case 'javascript':
          globalThis[command.timer](() => {});
          return undefined;
        case 'usage':
          return usage();
      }
    },
    stop: signalSoon,
  };
};
