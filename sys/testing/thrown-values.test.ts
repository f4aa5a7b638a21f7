import { expect, test } from 'vitest';

const throws = (value: unknown) => () => {
  throw value;
};

test('a function that throws undefined throws no error with a message', () => {
  expect(() => expect(throws(undefined)).toThrow(/EINVAL/)).toThrow(/EINVAL/);
  expect(() => expect(throws(undefined)).toThrowError('EINVAL')).toThrow(/EINVAL/);
  expect(() => expect(throws(undefined)).not.toThrow()).toThrow(/undefined is thrown/);
});

test('other functions are what they were', async () => {
  expect(throws(new Error('EINVAL'))).toThrow(/EINVAL/);
  expect(throws(new RangeError('EINVAL'))).toThrowError(RangeError);
  expect(throws('EINVAL')).toThrow('EINVAL');
  expect(() => {}).not.toThrow();
  expect(() => expect(() => {}).toThrow(/EINVAL/)).toThrow();
  expect(() => expect(throws(new Error('EIO'))).toThrow(/EINVAL/)).toThrow(/EIO/);
  await expect(Promise.reject(new Error('EINVAL'))).rejects.toThrow(/EINVAL/);
  await expect(async () => throws(new Error('EINVAL'))()).rejects.toThrow(/EINVAL/);
});
