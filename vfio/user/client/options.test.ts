/** Addresses, options and groups of devices that other processes serve. */
import { expect, test } from 'vitest';
import { noEvents } from '../testing/peer.js';
import { attach } from '../testing/peers/libvfio-user.js';
import { playServer } from '../testing/scripted-server.js';
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

test('a group is there as long as its device is, for one user at a time', async () => {
  // As far as the description needs it: nobody opens the device.
  await playServer(attach.slice(0, 8), {}, (address) => {
    const found = provider.resolve(address, {});
    const open = () => provider.groups.openGroup(found.group);
    const first = open();
    expect(first.getStatus()).toBe(1);
    expect(open).toThrowError(/EBUSY\n.*one user at a time/);
    first[Symbol.dispose]();
    first[Symbol.dispose]();
    open()[Symbol.dispose]();
    found[Symbol.dispose]();
    expect(open).toThrowError(/ENODEV\n.*there is no group/);
  });
});
