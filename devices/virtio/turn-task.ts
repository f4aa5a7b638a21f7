/** The event task of a {@link TurnFunction}: hears the doorbells of its queues, and raises its interrupts. */
import type { StartEventTask } from '../../sys/event-task.js';
import { InterruptSignals } from './interrupt-signals.js';
import type { PausedQueues } from './messages.js';
import { type TransportShape, TransportState } from './transport-state.js';
import type { TurnCommand, TurnCounter, TurnNotice, TurnTaskData } from './turn-messages.js';
import { TurnRequests } from './turn-requests.js';

export const start: StartEventTask = (data, context) => {
  const { shared, shape, doorbells } = data as TurnTaskData;
  const state = new TransportState<TurnCounter>(shared, shape as TransportShape<TurnCounter>);
  const signals = new InterruptSignals(state, context);
  const watches = new Map<number, Disposable>();
  const turns = new TurnRequests(
    context,
    () => context.notify({ kind: 'turn' } satisfies TurnNotice),
    () => watches.size > 0,
  );

  function hear(queue: number): void {
    const doorbell = doorbells[queue];
    if (doorbell === undefined || watches.has(queue)) return;
    const watch = context.watch(
      doorbell,
      () => {
        state.count('doorbells');
        turns.ask();
      },
      true,
    );
    watches.set(queue, watch);
  }

  function stopHearing(): void {
    for (const watch of watches.values()) watch[Symbol.dispose]();
    watches.clear();
  }

  function obey(command: TurnCommand): unknown {
    switch (command.kind) {
      // The registers' thread accesses guest memory, and logs what it writes there.
      case 'attach':
      case 'log':
        return undefined;
      case 'start':
        for (const queue of command.queues) hear(queue);
        return turns.ask();
      case 'detach':
        return stopHearing();
      case 'stop':
        signals.reset();
        return stopHearing();
      case 'pause':
        stopHearing();
        return { positions: new Map(), pending: signals.pause() } satisfies PausedQueues;
      case 'resume':
        return signals.resume(command.pending);
      case 'interrupts':
        return signals.retarget(command.targets);
      case 'maskIntx':
        return signals.maskIntx(command.isMasked);
      case 'command':
        signals.obeyCommand();
        if (watches.size > 0) turns.ask();
        return undefined;
      case 'used':
        return signals.queue(command.queue);
      case 'config':
        return signals.config();
      case 'endTurn':
        return turns.end(command.hasMore);
    }
  }

  return {
    message: (message) => obey(message as TurnCommand),
    stop() {
      stopHearing();
      signals[Symbol.dispose]();
    },
  };
};
