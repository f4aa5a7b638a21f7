import { beforeEach, expect, test } from 'vitest';
import { FakeClock, settle } from '../testing/fake-clock.js';
import { everyInterleaving, Scheduler } from '../testing/scheduler.js';
import { LockOrder } from './lock-order.js';
import { type LockContext, Mutex, RwSemaphore, SpinLock } from './locks.js';
import { Completion, DeadlockError, Executor, type Steps } from './steps.js';

let warnings: string[];
let clock: FakeClock;
let context: LockContext;
beforeEach(() => {
  warnings = [];
  clock = new FakeClock();
  context = contextOf();
});

function contextOf(): LockContext {
  const warn = (text: string) => {
    warnings.push(text);
  };
  return { executor: new Executor(clock, warn), order: new LockOrder(warn), warn };
}

/** Takes locks one inside the other, with a point at which others may run. */
function* nest(...locks: readonly Mutex[]): Steps<void> {
  const [first, ...rest] = locks;
  if (first === undefined) return;
  using _held = yield* first.acquire();
  yield 'inside';
  yield* nest(...rest);
}

test('a mutex lets one task in at a time, in every interleaving', () => {
  const runs = everyInterleaving(() => {
    const own = contextOf();
    const lock = new Mutex(own, 'lock');
    let inside = 0;
    let most = 0;
    const work = function* (): Steps<void> {
      for (let i = 0; i < 2; i++) {
        using _held = yield* lock.acquire();
        most = Math.max(most, ++inside);
        yield 'inside';
        inside--;
      }
    };
    const scheduler = new Scheduler(own.executor);
    for (const name of ['a', 'b', 'c']) scheduler.spawn(name, work());
    return { scheduler, check: () => expect(most).toBe(1) };
  });
  expect(runs).toBeGreaterThan(100);
});

test('readers share a semaphore, a writer has it alone, and a writer that waits keeps new readers out', () => {
  const lock = new RwSemaphore(context, 'rwsem');
  const hold = function* (how: 'read' | 'write'): Steps<void> {
    using _held = yield* lock[how]();
    yield 'inside';
  };
  const scheduler = new Scheduler(context.executor);
  const [first, second] = [scheduler.spawn('first', hold('read')), scheduler.spawn('second', hold('read'))];
  const writer = scheduler.spawn('writer', hold('write'));
  const late = scheduler.spawn('late', hold('read'));
  for (const reader of [first, second]) scheduler.runTo(reader, 'inside');
  expect(scheduler.run(writer)).toBe(false);
  expect(scheduler.run(late)).toBe(false);
  expect(writer.at).toBe('rwsem (write), held by first, second');
  for (const reader of [first, second]) expect(scheduler.run(reader)).toBe(true);
  expect(late.isRunnable).toBe(false);
  scheduler.runAll();
  expect(late.isDone).toBe(true);
});

test('two orders of two locks are told of the first time, though nothing has deadlocked', () => {
  const [a, b] = [new Mutex(context, 'a->lock', 'one'), new Mutex(context, 'b->lock')];
  context.executor.run(nest(a, b));
  expect(warnings).toEqual([]);
  context.executor.run(nest(b, a));
  context.executor.run(nest(b, a));
  expect(warnings).toEqual([
    'lock order: caller takes one a->lock while it holds b->lock, but b->lock is also taken under a->lock',
  ]);
});

test('an order that contradicts two others together is told of', () => {
  const [a, b, c] = ['a', 'b', 'c'].map((kind) => new Mutex(context, kind)) as [Mutex, Mutex, Mutex];
  context.executor.run(nest(a, b));
  context.executor.run(nest(b, c));
  expect(warnings).toEqual([]);
  context.executor.run(nest(c, a));
  expect(warnings).toHaveLength(1);
});

test('tasks that wait for each other are a deadlock, which names them and their locks', () => {
  const [a, b] = [new Mutex(context, 'a'), new Mutex(context, 'b')];
  const scheduler = new Scheduler(context.executor);
  const [one, two] = [scheduler.spawn('one', nest(a, b)), scheduler.spawn('two', nest(b, a))];
  for (const task of [one, two]) scheduler.runTo(task, 'inside');
  expect(() => scheduler.runAll()).toThrowError(
    new DeadlockError('one waits for b, held by two; two waits for a, held by one'),
  );
});

test('a task that takes a lock it holds is a deadlock at once, and its locks are released', () => {
  const lock = new Mutex(context, 'lock');
  const rwsem = new RwSemaphore(context, 'rwsem');
  expect(() => context.executor.run(nest(lock, lock))).toThrowError(
    /caller takes lock, which it already holds/,
  );
  expect(lock.isHeld).toBe(false);
  const twice = function* (): Steps<void> {
    using _first = yield* rwsem.read();
    using _second = yield* rwsem.read();
  };
  expect(() => context.executor.run(twice())).toThrowError(/rwsem, which it already holds/);
  expect(rwsem.isHeld).toBe(false);
});

test('a lock that another task holds makes a call that must not wait fail, instead of hanging', () => {
  const lock = new Mutex(context, 'lock');
  const scheduler = new Scheduler(context.executor);
  scheduler.runTo(scheduler.spawn('holder', nest(lock)), 'inside');
  expect(() => context.executor.run(nest(lock))).toThrowError(
    'caller would wait forever for lock, held by holder',
  );
  scheduler.runAll();
});

test('taking a lock under a spin lock is told of', () => {
  const [spin, lock] = [new SpinLock(context, 'spin'), new Mutex(context, 'lock')];
  context.executor.run(nest(spin, lock));
  expect(warnings).toEqual(['caller takes lock while it holds the spin lock spin']);
});

test('an operation that ends with a lock held is told of', () => {
  const lock = new Mutex(context, 'lock');
  context.executor.run(
    (function* (): Steps<void> {
      yield* lock.acquire();
    })(),
  );
  expect(warnings).toEqual(['caller ended or waits while holding lock']);
});

test('an asynchronous operation goes on when what it waits for has come, after the call that brought it', async () => {
  const done = new Completion('work');
  const order: string[] = [];
  const promise = context.executor.start(
    'waiter',
    (function* (): Steps<string> {
      const reason = yield* done.wait({ timeoutMs: 1000 });
      order.push(`waiter ${reason}`);
      return reason;
    })(),
  );
  await settle();
  expect(order).toEqual([]);
  done.complete();
  order.push('completed');
  expect(await promise).toBe('ready');
  expect(order).toEqual(['completed', 'waiter ready']);
  expect(clock.pending).toBe(0);
});

test('a wait ends by its time-out, or by a signal, even one that came before', async () => {
  const wait = (options: { timeoutMs?: number; signal?: AbortSignal }) =>
    context.executor.start('waiter', new Completion('never').wait(options));
  const late = wait({ timeoutMs: 10 });
  await clock.advance(10);
  expect(await late).toBe('timeout');
  expect(await wait({ signal: AbortSignal.abort(), timeoutMs: 5 })).toBe('interrupted');
  expect(clock.pending).toBe(0);
});

test('the same choices give the same history, and a history can be replayed', () => {
  const begin = () => {
    const own = contextOf();
    const [a, b] = [new Mutex(own, 'a'), new Mutex(own, 'b')];
    const scheduler = new Scheduler(own.executor);
    scheduler.spawn('one', nest(a, b));
    scheduler.spawn('two', nest(b, a));
    return scheduler;
  };
  let failure = '';
  try {
    everyInterleaving(() => ({ scheduler: begin(), check: () => undefined }));
  } catch (error) {
    failure = (error as Error).message;
  }
  expect(failure).toMatch(/^interleaving \d+: .*: DeadlockError: /);
  const history = failure.split(': ')[1]?.split(' ') ?? [];
  const again = begin();
  expect(() => again.replay(history)).toThrowError(DeadlockError);
  expect(again.history).toEqual(history);
});
