import fc from 'fast-check';
import { expect, test } from 'vitest';
import { TimerQueue } from './timer-queue.js';

/** A clock that moves only when somebody waits. */
function fakeQueue(start = 0.25) {
  const clock = { now: start };
  const timers = new TimerQueue(() => clock.now);
  /** Waits as epoll_wait does, until no timer is left; returns how often. */
  const runAll = (): number => {
    let waits = 0;
    for (let timeout = timers.timeout(); timeout >= 0; timeout = timers.timeout()) {
      if (timeout > 0) waits++;
      clock.now += timeout;
      timers.run();
    }
    return waits;
  };
  return { clock, timers, runAll };
}

test('whatever is set and cancelled, what is left fires once, in order of time and then of setting, and never early', () => {
  const plan = fc.array(
    fc.record({ ms: fc.oneof(fc.nat(20), fc.double({ min: 0, max: 20, noNaN: true })), keep: fc.boolean() }),
  );
  fc.assert(
    fc.property(plan, (timersToSet) => {
      const { clock, timers, runAll } = fakeQueue();
      const fired: number[] = [];
      const set = timersToSet.map(({ ms }, i) => {
        const due = clock.now + ms;
        return timers.after(ms, () => {
          expect(clock.now).toBeGreaterThanOrEqual(due);
          fired.push(i);
        });
      });
      for (const [i, { keep }] of timersToSet.entries()) if (!keep) set[i]?.[Symbol.dispose]();
      expect(timers.size).toBe(timersToSet.filter(({ keep }) => keep).length);
      runAll();
      // Due times as the queue computes them, which rounds; a stable sort keeps the order of setting.
      const dueOf = (i: number) => 0.25 + (timersToSet[i]?.ms as number);
      const kept = [...timersToSet.keys()].filter((i) => timersToSet[i]?.keep);
      expect(fired).toEqual(kept.sort((a, b) => dueOf(a) - dueOf(b)));
    }),
  );
});

test('the thread wakes once for each time at which something is due', () => {
  const { timers, runAll } = fakeQueue();
  for (const ms of [10.5, 3, 3, 10.5, 0, 700]) timers.after(ms, () => {});
  expect(runAll()).toBe(3);
  expect(timers.timeout()).toBe(-1);
});

test('a timer that is set in a callback waits for the next run, even if it is due at once', () => {
  const { timers } = fakeQueue();
  let count = 0;
  const again = () => {
    count++;
    timers.after(0, again);
  };
  timers.after(0, again);
  for (const expected of [1, 2, 3]) {
    timers.run();
    expect(count).toBe(expected);
  }
});

test('a callback may cancel the others, and its own timer', () => {
  const { timers, runAll } = fakeQueue();
  const fired: string[] = [];
  const own = timers.after(1, () => {
    fired.push('own');
    own[Symbol.dispose]();
    other[Symbol.dispose]();
  });
  const other = timers.after(1, () => fired.push('other'));
  timers.after(2, () => fired.push('last'));
  runAll();
  own[Symbol.dispose]();
  expect(fired).toEqual(['own', 'last']);
});

test('of many that are due, a bounded number fires between two looks at the descriptors', () => {
  const { timers, runAll } = fakeQueue();
  let fired = 0;
  for (let i = 0; i < 1000; i++) timers.after(0, () => fired++);
  timers.run();
  expect(fired).toBeLessThan(1000);
  expect(timers.timeout()).toBe(0);
  runAll();
  expect(fired).toBe(1000);
});

test('a timer past the longest timeout is waited for in pieces', () => {
  const { clock, timers, runAll } = fakeQueue(0);
  const ms = 5 * 2 ** 31;
  let at = 0;
  timers.after(ms, () => {
    at = clock.now;
  });
  expect(timers.timeout()).toBe(2 ** 31 - 1);
  expect(runAll()).toBeLessThan(10);
  expect(at).toBe(ms);
});

test.each([-1, Number.NaN, Number.POSITIVE_INFINITY])('%d ms is refused', (ms) => {
  expect(() => new TimerQueue().after(ms, () => {})).toThrowError(RangeError);
});
