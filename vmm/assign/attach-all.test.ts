import { describe, expect, test } from 'vitest';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { disposable, Scope } from '../../sys/scope.js';
import { Assignment } from '../../vfio/assign/index.js';
import type { VfioProvider } from '../../vfio/provider.js';
import { hotplugBench } from '../testing/hotplug-bench.js';
import { pcMemory } from './testing.js';

const requests = ['vgpu-small', 'mtty-1'].map((address) => ({ address }));

test('all devices of a list are attached, and each can be detached alone', () => {
  using scope = new Scope();
  const { assignment, state } = hotplugBench(scope);
  const before = state();
  const [display, serial, ...others] = assignment.attachAll(requests);
  expect([display?.device.name, serial?.device.name, others]).toEqual([
    expect.any(String),
    expect.any(String),
    [],
  ]);
  expect(state().maps).toHaveLength(2);
  display?.[Symbol.dispose]();
  expect(state().maps).toHaveLength(1);
  serial?.[Symbol.dispose]();
  expect(state()).toEqual(before);
  expect(assignment.attachAll([])).toEqual([]);
});

test('if the last of a list fails, the others are detached, last attached first', () => {
  using scope = new Scope();
  const { assignment, state, associated } = hotplugBench(scope);
  const before = state();
  expect(() => assignment.attachAll([...requests, { address: 'nothing' }])).toThrowError(/'nothing': ENODEV/);
  const [first, second] = associated.slice(0, 2).map((each) => each.slice('add '.length));
  expect(associated).toEqual([`add ${first}`, `add ${second}`, `remove ${second}`, `remove ${first}`]);
  expect(state()).toEqual(before);
});

describe('devices that belong together', () => {
  /** Its devices cannot be resolved; what is called is listed. */
  function providerOf(letter: string, calls: string[], refuses = false): VfioProvider {
    return {
      name: letter,
      addresses: `${letter}...`,
      matches: (address) => address.startsWith(letter) || address === 'any',
      prepare(devices) {
        calls.push(`prepare ${devices.map(({ address }) => address).join(' ')}`);
        if (refuses) throw new SysError({ call: 'bind', target: letter, errno: errno.EBUSY });
        return disposable(() => calls.push(`done ${letter}`));
      },
      resolve(address) {
        calls.push(`resolve ${address}`);
        throw new SysError({ call: 'find', target: address, errno: errno.ENODEV });
      },
    };
  }

  function assign(scope: Scope, providers: readonly VfioProvider[]): Assignment {
    const association = { addFile: () => expect.unreachable(), removeFile: () => expect.unreachable() };
    const functions = { open: () => expect.unreachable() };
    return scope.own(
      new Assignment({ memory: pcMemory(scope, 0x20_0000n), association, functions, providers }),
    );
  }

  test('are prepared by their providers before the first is resolved, and until one has failed', () => {
    using scope = new Scope();
    const calls: string[] = [];
    const assignment = assign(scope, [
      providerOf('a', calls),
      providerOf('b', calls),
      providerOf('c', calls),
    ]);
    const list = ['b1', 'a1', 'any', 'b2', 'nothing'].map((address) => ({ address }));
    expect(() => assignment.attachAll(list)).toThrowError(/^find on b1: ENODEV/);
    expect(calls).toEqual(['prepare a1 any', 'prepare b1 b2', 'resolve b1', 'done b', 'done a']);
  });

  test('are not attached if one of their providers cannot prepare them', () => {
    using scope = new Scope();
    const calls: string[] = [];
    const assignment = assign(scope, [providerOf('a', calls), providerOf('b', calls, true)]);
    expect(() => assignment.attachAll([{ address: 'a1' }, { address: 'b1' }])).toThrowError(
      /^bind on b: EBUSY/,
    );
    expect(calls).toEqual(['prepare a1', 'prepare b1', 'done a']);
  });
});
