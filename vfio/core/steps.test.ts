import { getEventListeners } from 'node:events';
import { beforeEach, expect, test } from 'vitest';
import { FakeClock, settle } from '../testing/fake-clock.js';
import { Scheduler } from '../testing/scheduler.js';
import { LockOrder } from './lock-order.js';
import { type LockContext, Mutex, RwSemaphore } from './locks.js';
import {
  Completion,
  DeadlockError,
  describeWait,
  Executor,
  isSteps,
  maybeSteps,
  type Steps,
} from './steps.js';

let warnings: string[];
let clock: FakeClock;
let executor: Executor;
let context: LockContext;
beforeEach(() => {
  warnings = [];
  clock = new FakeClock();
  const warn = (text: string): void => {
    warnings.push(text);
  };
  executor = new Executor(clock, warn);
  context = { executor, order: new LockOrder(warn), warn };
});

test('a task that sleeps, or ends, with one lock held is reported each time, with the lock', async () => {
  const [lock, done] = [new Mutex(context, 'lock'), new Completion('work')];
  const sleeper = executor.start(
    'sleeper',
    (function* (): Steps<void> {
      yield* lock.acquire();
      yield* done.wait();
    })(),
  );
  expect(warnings).toEqual(['sleeper ended or waits while holding lock']);
  done.complete();
  await sleeper;
  expect(warnings).toHaveLength(2);
  expect(warnings[1]).toBe(warnings[0]);
  lock[Symbol.dispose]();
});

test('a task that waits and ends with no lock held is not reported, even if it failed', async () => {
  const [lock, done] = [new Mutex(context, 'lock'), new Completion('work')];
  const task = executor.start(
    'task',
    (function* (): Steps<void> {
      {
        using _held = yield* lock.acquire();
      }
      yield* done.wait();
      using _held = yield* lock.acquire();
      throw new RangeError('failed');
    })(),
  );
  done.complete();
  await expect(task).rejects.toThrow('failed');
  expect([warnings, lock.isHeld]).toEqual([[], false]);
});

test('a call inside another is reported for the locks that it leaves held, and not for those of the caller', () => {
  const [outer, inner] = [new Mutex(context, 'outer'), new Mutex(context, 'inner')];
  executor.run(
    (function* (): Steps<void> {
      using _held = yield* outer.acquire();
      executor.run((function* (): Steps<void> {})());
      expect(warnings).toEqual([]);
      executor.run(
        (function* (): Steps<void> {
          yield* inner.acquire();
        })(),
      );
      expect(warnings).toEqual(['caller ended or waits while holding inner']);
      inner[Symbol.dispose]();
    })(),
  );
  expect(warnings).toHaveLength(1);
});

test('a task has a number of its own, and is the current one only while it runs', async () => {
  const outside = executor.current;
  const seen: string[] = [];
  const done = new Completion('work');
  const note = function* (): Steps<void> {
    seen.push(`${executor.current.name} ${executor.current.id}`);
    yield* done.wait();
    seen.push(`${executor.current.name} ${executor.current.id}`);
  };
  const [one, two] = [executor.start('one', note()), executor.start('two', note())];
  expect(executor.current).toBe(outside);
  done.complete();
  await Promise.all([one, two]);
  expect([outside.name, outside.id]).toEqual(['caller', 1]);
  expect(seen).toEqual(['one 2', 'two 3', 'one 2', 'two 3']);
  expect(executor.current).toBe(outside);
});

test('a wait that ends leaves neither a timer nor a listener behind, whatever ended it', async () => {
  for (const end of ['ready', 'timeout', 'interrupted'] as const) {
    const [done, abort] = [new Completion('work'), new AbortController()];
    const reason = executor.start('waiter', done.wait({ timeoutMs: 10, signal: abort.signal }));
    expect([clock.pending, getEventListeners(abort.signal, 'abort')]).toEqual([1, [expect.any(Function)]]);
    if (end === 'ready') done.complete();
    if (end === 'timeout') await clock.advance(10);
    if (end === 'interrupted') abort.abort();
    expect(await reason).toBe(end);
    expect([clock.pending, getEventListeners(abort.signal, 'abort')]).toEqual([0, []]);
  }
});

test('a wait without a time-out sets no timer, and one whose condition is not met goes on', async () => {
  const done = new Completion('work');
  let isOver = false;
  const waiter = executor.start('waiter', done.wait()).then(() => {
    isOver = true;
  });
  expect([done.isDone, clock.pending]).toEqual([false, 0]);
  done.queue.wake();
  await settle();
  expect(isOver).toBe(false);
  done.complete();
  await waiter;
  expect([done.isDone, isOver]).toEqual([true, true]);
});

test('a call that would have to wait throws into its steps, whose locks are released', () => {
  const lock = new Mutex(context, 'lock');
  expect(() =>
    executor.run(
      (function* (): Steps<void> {
        using _held = yield* lock.acquire();
        yield* new Completion('the end of time').wait();
      })(),
    ),
  ).toThrow(new DeadlockError('caller would wait forever for the end of time'));
  expect([lock.isHeld, warnings]).toEqual([false, []]);
});

test('only a generator is run as steps', () => {
  const steps = (function* (): Steps<void> {})();
  expect(isSteps(steps)).toBe(true);
  const none = [undefined, null, 1, 'text', [], new Map(), { next: () => undefined }, () => steps];
  for (const each of none) {
    expect(isSteps(each)).toBe(false);
    executor.run(maybeSteps(each));
  }
});

test('the description of a wait names its holders, if there are any', () => {
  const [a, b] = [executor.createTask('a'), executor.createTask('b')];
  const wait = { what: 'lock', queue: new Completion('').queue, isReady: () => false };
  expect(describeWait(wait)).toBe('lock');
  expect(describeWait({ ...wait, holders: () => [] })).toBe('lock');
  expect(describeWait({ ...wait, holders: () => [a, b] })).toBe('lock, held by a, b');
});

test('a lock that nobody holds cannot be released', () => {
  const [lock, rwsem] = [new Mutex(context, 'lock', 'group 3'), new RwSemaphore(context, 'rwsem')];
  expect(() => lock[Symbol.dispose]()).toThrow('group 3 lock is released, but no task holds it');
  const held = executor.run(rwsem.read());
  held[Symbol.dispose]();
  expect(() => held[Symbol.dispose]()).toThrow('caller releases rwsem, which it does not hold');
  expect(warnings).toEqual(['caller ended or waits while holding rwsem']);
});

test('a lock knows whether any task holds it, and whether the running one does', () => {
  const lock = new Mutex(context, 'lock');
  const rwsem = new RwSemaphore(context, 'rwsem');
  const other = executor.createTask('other');
  const state = (): boolean[] => [lock.isHeld, lock.isMine, rwsem.isHeld, rwsem.isMine];
  const stateOf = function* (): Steps<void> {
    seen = state();
    yield 'seen';
  };
  let seen: boolean[] = [];
  const asOther = (): boolean[] => {
    executor.step(other, stateOf(), 'ready');
    return seen;
  };
  expect(state()).toEqual([false, false, false, false]);
  for (const how of ['read', 'write'] as const) {
    executor.run(
      (function* (): Steps<void> {
        using _lock = yield* lock.acquire();
        using _rwsem = yield* rwsem[how]();
        expect(state()).toEqual([true, true, true, true]);
        expect(asOther()).toEqual([true, false, true, false]);
      })(),
    );
    expect(state()).toEqual([false, false, false, false]);
  }
});

test('a writer that gives up waiting keeps no reader out', () => {
  const rwsem = new RwSemaphore(context, 'rwsem');
  const reader = executor.createTask('reader');
  const reading = rwsem.read();
  executor.step(reader, reading, 'ready');
  const { value: held } = executor.step(reader, reading, 'ready');
  expect(() => executor.run(rwsem.write())).toThrow('for rwsem (write), held by reader');
  executor.run(
    (function* (): Steps<void> {
      using _held = yield* rwsem.read();
    })(),
  );
  (held as Disposable)[Symbol.dispose]();
  executor.run(
    (function* (): Steps<void> {
      using _held = yield* rwsem.write();
      expect(() => executor.step(reader, rwsem.read(), 'ready')).not.toThrow();
    })(),
  );
  expect(rwsem.isHeld).toBe(false);
});

test('a reader that waits for a writer names it', () => {
  const rwsem = new RwSemaphore(context, 'rwsem');
  const writer = executor.createTask('writer');
  const writing = rwsem.write();
  executor.step(writer, writing, 'ready');
  executor.step(writer, writing, 'ready');
  for (const how of ['read', 'write'] as const)
    expect(() => executor.run(rwsem[how]())).toThrow(`for rwsem (${how}), held by writer`);
});

test('two locks of one kind, one inside the other, are reported once', () => {
  const [a, b] = [new Mutex(context, 'lock', 'a'), new Mutex(context, 'lock', 'b')];
  const nest = function* (): Steps<void> {
    using _outer = yield* a.acquire();
    using _inner = yield* b.acquire();
  };
  executor.run(nest());
  executor.run(nest());
  expect(warnings).toEqual([
    'lock order: caller takes b lock while it holds a lock, but lock is also taken under lock',
  ]);
});

test('a task that waits for a mutex is held up by its holder, and by nobody once that has released it', () => {
  const lock = new Mutex(context, 'lock');
  const scheduler = new Scheduler(executor);
  const hold = function* (): Steps<void> {
    using _held = yield* lock.acquire();
    yield 'inside';
  };
  const [holder, waiter] = [scheduler.spawn('holder', hold()), scheduler.spawn('waiter', hold())];
  scheduler.runTo(holder, 'inside');
  expect(scheduler.run(waiter)).toBe(false);
  expect(waiter.at).toBe('lock, held by holder');
  scheduler.run(holder);
  expect([waiter.at, waiter.isRunnable]).toEqual(['lock', true]);
  scheduler.runAll();
});
