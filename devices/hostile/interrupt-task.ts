/** The event task between a device's interrupts and its user's. */
import type { StartEventTask } from '../../sys/event-task.js';
import { drainEventfd, signalEventfd } from '../../sys/eventfd.js';
import { type Decision, Decisions } from './decisions.js';
import type { InterruptCommand, InterruptTaskData } from './messages.js';

const ACTIONS = ['lost', 'repeated', 'wrong vector', 'spurious', 'late'] as const;
/** Most interrupts that wait, and how long each does. */
const MOST_LATE = 64;
const MOST_LATE_MS = 20;

interface Vector {
  readonly from: number;
  readonly to: number;
  readonly watch: Disposable;
}

export const start: StartEventTask = (data, context) => {
  const { options, log } = data as InterruptTaskData;
  const decisions = new Decisions(options, log);
  /** By index, then by vector. */
  const indexes = new Map<number, Map<number, Vector>>();
  const late = new Set<Disposable>();

  function signal(index: number, vector: number): void {
    const target = indexes.get(index)?.get(vector);
    if (target !== undefined) signalEventfd(target.to);
  }

  function signalLater(index: number, vector: number, ms: number): void {
    if (late.size >= MOST_LATE) {
      signal(index, vector);
      return;
    }
    const timer = context.after(ms, () => {
      late.delete(timer);
      signal(index, vector);
    });
    late.add(timer);
  }

  function another(index: number, vector: number, { dice }: Decision): number | undefined {
    const others = [...(indexes.get(index)?.keys() ?? [])].filter((each) => each !== vector);
    return others.length === 0 ? undefined : dice.pick(others);
  }

  function mutate(index: number, vector: number, decision: Decision): void {
    const { dice, log } = decision;
    const action = dice.pick(ACTIONS);
    const other =
      action === 'wrong vector' || action === 'spurious' ? another(index, vector, decision) : undefined;
    switch (action) {
      case 'wrong vector':
        log(other === undefined ? 'lost' : action, vector, other ?? vector);
        break;
      case 'spurious':
        log(action, vector, other ?? vector);
        signal(index, vector);
        break;
      case 'repeated':
        log(action, vector, vector);
        signal(index, vector);
        signalLater(index, vector, 1 + dice.below(MOST_LATE_MS));
        break;
      case 'late':
        log(action, vector, vector);
        signalLater(index, vector, 1 + dice.below(MOST_LATE_MS));
        break;
      case 'lost':
        log(action, vector, vector);
    }
    if (other !== undefined) signal(index, other);
    else if (action === 'spurious') signalLater(index, vector, 1 + dice.below(MOST_LATE_MS));
  }

  function hear(index: number, vector: number, from: number): void {
    if (drainEventfd(from) === 0n) return;
    const decision = decisions.decide('interrupt', index, vector, 0);
    if (decision === undefined) signal(index, vector);
    else mutate(index, vector, decision);
  }

  function remove(index: number, vector: number): void {
    const vectors = indexes.get(index);
    const old = vectors?.get(vector);
    if (old === undefined) return;
    old.watch[Symbol.dispose]();
    // What the device has signalled before this call arrives.
    if (drainEventfd(old.from) > 0n) signalEventfd(old.to);
    vectors?.delete(vector);
  }

  function stopTimers(): void {
    for (const timer of late) timer[Symbol.dispose]();
    late.clear();
  }

  function obey({ kind, index, vectors }: InterruptCommand): void {
    if (kind === 'clear') {
      stopTimers();
      for (const vector of [...(indexes.get(index)?.keys() ?? [])]) remove(index, vector);
      return;
    }
    const known = indexes.get(index) ?? new Map<number, Vector>();
    indexes.set(index, known);
    for (const { vector, from, to } of vectors) {
      remove(index, vector);
      if (from < 0) continue;
      known.set(vector, { from, to, watch: context.watch(from, () => hear(index, vector, from)) });
      hear(index, vector, from);
    }
  }

  return {
    message: (message) => obey(message as InterruptCommand),
    stop() {
      stopTimers();
      for (const [index, vectors] of indexes) for (const vector of [...vectors.keys()]) remove(index, vector);
    },
  };
};
