import { beforeEach, expect, test } from 'vitest';
import { FakeClock } from '../testing/fake-clock.js';
import { RecordingListener } from '../testing/recording-listener.js';
import { Scheduler } from '../testing/scheduler.js';
import { LockOrder } from './lock-order.js';
import type { LockContext } from './locks.js';
import { BlockingNotifierChain, SrcuNotifierChain } from './notifier.js';
import { Completion, DeadlockError, Executor, type Steps } from './steps.js';

let warnings: string[];
let context: LockContext;
beforeEach(() => {
  warnings = [];
  const warn = (text: string): void => {
    warnings.push(text);
  };
  context = { executor: new Executor(new FakeClock(), warn), order: new LockOrder(warn), warn };
});

const run = <T>(steps: Steps<T>): T => context.executor.run(steps);
const chains = {
  blocking: () => new BlockingNotifierChain<number>(context, 'chain', 'group 3'),
  SRCU: () => new SrcuNotifierChain<number>(context, 'chain', 'group 3'),
};

for (const [kind, make] of Object.entries(chains)) {
  test(`a listener registers once with a ${kind} chain: EEXIST the second time, and ENOENT to remove one that is not there`, () => {
    const chain = make();
    const [a, b] = [new RecordingListener<number>('a'), new RecordingListener<number>('b')];
    for (const each of [a, b]) run(chain.register(each));
    expect(() => run(chain.register(a))).toThrow(/_chain_register on group 3 chain: EEXIST\n.*a is already/);
    expect(chain.blocks).toEqual([a, b]);
    run(chain.unregister(a));
    expect(() => run(chain.unregister(a))).toThrow(
      /_chain_unregister on group 3 chain: ENOENT\n.*a is not registered/,
    );
    run(chain.call(1, 7));
    expect([a.heard, b.heard, chain.blocks]).toEqual([[], [7], [b]]);
  });

  test(`a listener of a ${kind} chain that would wait for ever ends the call; one that fails in another way does not`, () => {
    const chain = make();
    const failing = new RecordingListener<number>('failing', () => {
      throw new RangeError('no');
    });
    const stuck = new RecordingListener<number>('stuck', () => new Completion('its turn').wait());
    const last = new RecordingListener<number>('last');
    for (const each of [failing, stuck, last]) run(chain.register(each));
    expect(() => run(chain.call(1, 7))).toThrow(DeadlockError);
    expect(last.heard).toEqual([]);
    expect(warnings).toEqual(["listener 'failing' failed: RangeError: no"]);
    run(chain.unregister(stuck));
    run(chain.call(2, 8));
    expect(last.heard).toEqual([8]);
  });

  test(`a listener of a ${kind} chain is told the event and its data, in the order of registration`, () => {
    const chain = make();
    const told: unknown[] = [];
    const names = ['a', 'b', 'c'];
    for (const name of names)
      run(
        chain.register(new RecordingListener<number>(name, (event, data) => told.push([name, event, data]))),
      );
    run(chain.call(3, 9));
    expect(told).toEqual(names.map((name) => [name, 3, 9]));
  });

  test(`removal inside a callback of the same ${kind} chain is EDEADLK`, () => {
    const chain = make();
    const errors: string[] = [];
    const hasty: RecordingListener<number> = new RecordingListener('hasty', () => {
      try {
        run(chain.unregister(hasty));
      } catch (error) {
        errors.push(String(error));
      }
    });
    run(chain.register(hasty));
    run(chain.call(1, 1));
    expect(errors).toEqual([
      expect.stringMatching(/_chain_unregister on group 3 chain: EDEADLK\n.*callback of the same chain/),
    ]);
    run(chain.unregister(hasty)); // allowed again
    expect(chain.blocks).toEqual([]);
  });
}

test('registration inside a callback is EDEADLK with a blocking chain, and takes part in the same call with an SRCU one', () => {
  for (const make of [chains.blocking, chains.SRCU]) {
    const chain = make();
    const second = new RecordingListener<number>('second');
    let failure = '';
    const first = new RecordingListener<number>('first', () => {
      try {
        run(chain.register(second));
      } catch (error) {
        failure = String(error);
      }
    });
    run(chain.register(first));
    run(chain.call(1, 5));
    if (chain instanceof SrcuNotifierChain) expect([failure, second.heard]).toEqual(['', [5]]);
    else {
      expect(failure).toMatch(/notifier_chain_register on .*EDEADLK/);
      expect([second.heard, chain.blocks]).toEqual([[], [first]]);
    }
  }
});

test('a listener that a callback drops is skipped by the call in progress, and clear leaves none', () => {
  const chain = chains.blocking();
  const gone = new RecordingListener<number>('gone');
  const last = new RecordingListener<number>('last');
  const first = new RecordingListener<number>('first', () => {
    expect(chain.isCallingMe).toBe(true);
    chain.drop(gone);
  });
  for (const each of [first, gone, last]) run(chain.register(each));
  expect(chain.isCallingMe).toBe(false);
  run(chain.call(1, 4));
  expect([first.heard, gone.heard, last.heard]).toEqual([[4], [], [4]]);
  expect(chain.blocks).toEqual([first, last]);
  chain.clear();
  run(chain.call(1, 5));
  expect([first.heard, chain.blocks]).toEqual([[4], []]);
});

test('one listener can be told alone', () => {
  const chain = chains.blocking();
  const [a, b] = [new RecordingListener<number>('a'), new RecordingListener<number>('b')];
  for (const each of [a, b]) run(chain.register(each));
  run(chain.tell(b, 1, 6));
  expect([a.heard, b.heard]).toEqual([[], [6]]);
});

test('removal from an SRCU chain waits for the calls that had begun, and for none that began later', () => {
  const chain = chains.SRCU();
  const inside = new RecordingListener<number>('inside', function* (): Steps<void> {
    yield 'inside the callback';
  });
  const other = new RecordingListener<number>('other');
  for (const each of [inside, other]) run(chain.register(each));
  const scheduler = new Scheduler(context.executor);
  const early = ['one', 'two'].map((name) => scheduler.spawn(name, chain.call(1, 1)));
  for (const task of early) scheduler.runTo(task, 'inside the callback');
  const removal = scheduler.spawn('removal', chain.unregister(other));
  expect(scheduler.run(removal)).toBe(false);
  expect(removal.at).toBe('callbacks of group 3 chain, held by one, two');
  const late = scheduler.spawn('late', chain.call(1, 2));
  scheduler.runTo(late, 'inside the callback');
  for (const task of early) {
    expect(removal.isRunnable).toBe(false);
    scheduler.run(task);
  }
  expect(removal.isRunnable).toBe(true);
  scheduler.run(removal);
  expect([removal.isDone, late.isDone]).toEqual([true, false]);
  scheduler.runAll();
  expect([inside.heard, other.heard]).toEqual([[1, 1, 2], []]);
});

test('a failed call of an SRCU chain is no longer waited for', () => {
  const chain = chains.SRCU();
  const stuck = new RecordingListener<number>('stuck', () => new Completion('its turn').wait());
  run(chain.register(stuck));
  expect(() => run(chain.call(1, 1))).toThrow(DeadlockError);
  run(chain.unregister(stuck));
  expect(chain.blocks).toEqual([]);
});
