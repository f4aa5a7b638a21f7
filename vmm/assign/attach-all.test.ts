import { expect, test } from 'vitest';
import { Scope } from '../../sys/scope.js';
import { hotplugBench } from '../testing/hotplug-bench.js';

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
