/** Signals that stop a command. */
import { SIGNAL_STATUS } from './outcome.js';

export interface StopSignals extends Disposable {
  /** Whether stdout was closed by its reader. */
  isReaderGone(): boolean;
}

/**
 * The first signal requests a clean stop; the second ends the process at once. Node ignores SIGPIPE: a closed pipe is
 * reported as an error of stdout.
 */
export function stopOnSignals(stop: (signal: string) => void): StopSignals {
  let isReaderGone = false;
  process.stdout.on('error', () => {
    isReaderGone = true;
    stop('SIGPIPE');
  });
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
    isReaderGone: () => isReaderGone,
    [Symbol.dispose]() {
      for (const off of handlers) off();
    },
  };
}
