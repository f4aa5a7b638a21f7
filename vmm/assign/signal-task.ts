/** The event task behind vmm/signals.ts: tells the machine thread which of its fds were signalled. */
import type { StartEventTask } from '../../sys/event-task.js';

/** Machine thread to task; `token` stands for the watch, as fd numbers are used again. */
export type SignalCommand =
  | { readonly kind: 'watch'; readonly token: number; readonly fd: number }
  | { readonly kind: 'unwatch'; readonly token: number };

export const start: StartEventTask = (_data, context) => {
  const watches = new Map<number, Disposable>();
  const stop = (token: number): void => {
    watches.get(token)?.[Symbol.dispose]();
    watches.delete(token);
  };
  return {
    message(message) {
      const command = message as SignalCommand;
      if (command.kind === 'unwatch') return stop(command.token);
      const { token, fd } = command;
      // By edge, and never read: another process may have the eventfd too, and a read could then wait for ever.
      watches.set(
        token,
        context.watch(fd, () => context.notify(token), true),
      );
    },
    stop() {
      for (const token of [...watches.keys()]) stop(token);
    },
  };
};
