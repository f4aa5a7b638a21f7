import { expect, test } from 'vitest';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { Done } from './image.js';
import { eachInTurn, Joint, Turns } from './joint.js';

const error = (target: string) => new SysError({ call: 'pwritev', target, errno: errno.EIO });

test('a joint operation is done when all of its parts are, once, with the first error', () => {
  const results: (SysError | undefined)[] = [];
  const joint = new Joint((result) => void results.push(result));
  const [one, two] = [joint.part(), joint.part()];
  two(error('two'));
  joint.end();
  expect(results).toEqual([]);
  one(error('one'));
  expect(results.map((result) => result?.target)).toEqual(['two']);
});

test('a hundred thousand steps that are done at once need no deeper stack than one', () => {
  let steps = 0;
  let isDone = false;
  const step = (_i: number, done: Done): void => {
    steps++;
    done();
  };
  eachInTurn(100_000, step, () => {
    isDone = true;
  });
  expect([steps, isDone]).toEqual([100_000, true]);
});

test('a step waits for the one before it, and an error ends them', () => {
  const waiting: Done[] = [];
  const results: (string | undefined)[] = [];
  eachInTurn(
    3,
    (_i, done) => waiting.push(done),
    (result) => void results.push(result?.target),
  );
  expect(waiting).toHaveLength(1);
  waiting[0]?.();
  expect(waiting).toHaveLength(2);
  waiting[1]?.(error('second'));
  expect([waiting.length, results]).toEqual([2, ['second']]);
});

test('users take turns in the order in which they ask, twenty thousand of them on one stack', () => {
  const turns = new Turns();
  const leaves: (() => void)[] = [];
  const order: number[] = [];
  turns.take((leave) => void leaves.push(leave));
  for (let i = 0; i < 20_000; i++) {
    turns.take((leave) => {
      order.push(i);
      leave();
    });
  }
  expect(order).toEqual([]);
  leaves[0]?.();
  expect(order).toHaveLength(20_000);
  expect(order.every((value, i) => value === i)).toBe(true);
});
