/** Addresses and options of a device that another process serves, before any connection is made. */
import { expect, test } from 'vitest';
import { noEvents } from '../testing/peer.js';
import { userProvider } from './provider.js';

const provider = userProvider(noEvents);
const problem = (options: Readonly<Record<string, string>>, address = 'vfio-user:/run/x.sock') =>
  provider.checkOptions?.(address, options);

test('only addresses with the prefix are of this provider', () => {
  expect(
    ['vfio-user:/x', 'vfio-user', '/dev/vfio-user:'].map((address) => provider.matches(address)),
  ).toEqual([true, false, false]);
  expect([provider.name, provider.needsSharedMemory]).toEqual(['vfio-user', true]);
});

test.each([
  ['5', true],
  ['0.5', true],
  ['3600', true],
  ['3600.1', false],
  ['0', false],
  ['-1', false],
  ['1e3', false],
  ['.5', false],
  ['5.', false],
  ['', false],
  ['5 ', false],
])('timeout=%s: possible is %s', (timeout, isPossible) => {
  const expected = isPossible ? /^undefined$/ : /is not a number of seconds/;
  expect(String(problem({ timeout }))).toMatch(expected);
});

test.each(['trust', 'twin'])('%s is on or off', (name) => {
  for (const value of ['on', 'off']) expect(problem({ [name]: value })).toBeUndefined();
  for (const value of ['', 'On', 'true', '1'])
    expect(String(problem({ [name]: value }))).toMatch(new RegExp(`${name}=${value} is neither on nor off`));
});

test('all unknown options are named, also those of each object', () => {
  expect(problem({})).toBeUndefined();
  expect(String(problem({ speed: '1', toString: '1' }))).toMatch(/no option speed, toString; there are:/);
});

test('a path is one that a socket can have', () => {
  expect(problem({}, 'vfio-user:')).toBeDefined();
  expect(problem({}, `vfio-user:/${'x'.repeat(106)}`)).toBeUndefined();
  expect(problem({}, `vfio-user:/${'x'.repeat(108)}`)).toBeDefined();
});

test('a group that nobody has resolved is ENODEV', () => {
  expect(() => provider.groups.openGroup(0)).toThrowError(/ENODEV\n.*there is no group 0/);
});
