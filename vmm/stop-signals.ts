/** Signals that stop a command. */
import { SIGNAL_STATUS } from './outcome.js';

/**
 * The first signal requests a clean stop; the second ends the process at once. Node ignores SIGPIPE: see Output for a
 * closed pipe.
 */
export function stopOnSignals(stop: (signal: string) => void): Disposable {
  const signals = ['SIGHUP', 'SIGINT', 'SIGTERM'] as const;
  let isAsked = false;
  const handlers = signals.map((signal) => {
    const handler = () => {
      if (isAsked) process.exit(SIGNAL_STATUS[signal]);
      isAsked = true;
      stop(signal);
    };
    process.on(signal, handler);
    return () => process.off(signal, handler);
  });
  return {
    [Symbol.dispose]() {
      for (const off of handlers) off();
    },
  };
}
