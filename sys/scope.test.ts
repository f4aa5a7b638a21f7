import { expect, test } from 'vitest';
import { disposable, firstFailure, Scope } from './scope.js';

test('a scope releases last in, first out', () => {
  const order: number[] = [];
  const scope = new Scope();
  for (const n of [1, 2, 3]) scope.defer(() => order.push(n));
  scope[Symbol.dispose]();
  expect(order).toEqual([3, 2, 1]);
});

test('a failed release does not stop the others, and the first failure is thrown', () => {
  const order: number[] = [];
  const scope = new Scope();
  scope.defer(() => order.push(1));
  scope.defer(() => {
    throw new Error('second');
  });
  scope.defer(() => {
    throw new Error('first');
  });
  let thrown: unknown;
  try {
    scope[Symbol.dispose]();
  } catch (error) {
    thrown = error;
  }
  expect(order).toEqual([1]);
  expect(thrown).toMatchObject({ message: 'first', suppressed: [{ message: 'second' }] });
});

test('a moved scope releases only from its new owner', () => {
  let released = 0;
  const first = new Scope();
  first.defer(() => released++);
  const second = first.move();
  first[Symbol.dispose]();
  expect(released).toBe(0);
  second[Symbol.dispose]();
  second[Symbol.dispose]();
  expect(released).toBe(1);
});

test('a disposable runs once', () => {
  let runs = 0;
  const once = disposable(() => runs++);
  once[Symbol.dispose]();
  once[Symbol.dispose]();
  expect(runs).toBe(1);
});

test('of a failure and those of its clean-up, the first is the error, and the others are its suppressed list', () => {
  const failing = (text: string): Disposable => ({
    [Symbol.dispose]() {
      throw new Error(text);
    },
  });
  const open = (): void => {
    using _outer = failing('outer clean-up');
    using _inner = failing('inner clean-up');
    throw new Error('the step');
  };
  let caught: unknown;
  try {
    open();
  } catch (error) {
    caught = firstFailure(error);
  }
  expect(caught).toMatchObject({
    message: 'the step',
    suppressed: [{ message: 'inner clean-up' }, { message: 'outer clean-up' }],
  });
  expect(firstFailure('text')).toBe('text');
});
