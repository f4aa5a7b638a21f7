/** Event task of vmm/assign/signals.ts: notifies the machine thread of signalled eventfds. */
import type { StartEventTask } from '../../sys/event-task.js';

/** Machine thread to task. `token` identifies the watch, because fd numbers are reused. */
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
      // Edge-triggered, never read: another process may share the eventfd and drain it, and a read would then block.
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
