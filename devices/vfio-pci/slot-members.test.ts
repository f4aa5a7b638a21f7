import { expect, test } from 'vitest';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { trace } from '../../sys/trace.js';
import { recordTrace } from '../testing/fake-ports.js';
import { type SlotMember, SlotMembers } from './slot-members.js';

/** A machine with the devices `a`, `b` and `c` on one slot, and what happens to them. */
function slot(
  options: {
    busy?: string;
    foreign?: string;
    affected?: keyof typeof errno;
    reset?: keyof typeof errno;
  } = {},
) {
  const steps: string[] = [];
  const fail = (code: keyof typeof errno | undefined): void => {
    if (code !== undefined) throw new SysError({ call: 'reset', target: 'slot', errno: errno[code] });
  };
  const member = (name: string): SlotMember => ({
    name,
    isIdle: name !== options.busy,
    beforeReset: () => steps.push(`${name} before`),
    afterReset: (isReset) => steps.push(`${name} after ${isReset}`),
  });
  const members = new SlotMembers();
  const [a, b, c] = ['a', 'b', 'c'].map(member) as [SlotMember, SlotMember, SlotMember];
  const added = [a, b, c].map((one) => members.add(`at ${one.name}`, one));
  const reset = {
    address: 'at a',
    affected() {
      fail(options.affected);
      return ['a', 'b', 'c'].map((name) => ({
        address: `at ${name}`,
        ...(name === options.foreign && { foreign: 'it is foreign' }),
      }));
    },
    reset() {
      steps.push('reset');
      fail(options.reset);
    },
  };
  return { a, added, members, reset, steps, run: () => members.reset(a, reset) };
}

test('the others of a slot are stopped before its reset and resumed after it; the one that asks is not', () => {
  using notes = recordTrace(trace.vfio);
  const { run, steps } = slot();
  expect(run()).toEqual({ done: 'at a, at b, at c' });
  expect(steps).toEqual(['b before', 'c before', 'reset', 'b after true', 'c after true']);
  expect(notes.events.map(({ device, text }) => `${device}: ${text}`)).toEqual([
    'b: the device is reset with its slot, by a',
    'c: the device is reset with its slot, by a',
  ]);
});

test('a device whose slot fails to reset is resumed all the same, and no note says that it is reset', () => {
  using notes = recordTrace(trace.vfio);
  const { run, steps } = slot({ reset: 'EIO' });
  expect(run()).toEqual({ refused: 'reset on slot: EIO' });
  expect(steps).toEqual(['b before', 'c before', 'reset', 'b after false', 'c after false']);
  expect(notes.events).toEqual([]);
});

test('a device that cannot be resumed does not keep the others from it', () => {
  const { added, members, reset, steps, a } = slot();
  added[1]?.[Symbol.dispose]();
  const afterReset = (): void => {
    throw new RangeError('gone');
  };
  members.add('at b', { name: 'b', isIdle: true, beforeReset: () => {}, afterReset });
  using notes = recordTrace(trace.vfio);
  expect(members.reset(a, reset)).toEqual({ done: 'at a, at b, at c' });
  expect(steps).toEqual(['c before', 'reset', 'c after true']);
  expect(notes.events.map(({ device, text }) => `${device}: ${text}`)).toContain('b: gone');
});

test.each([
  [{ busy: 'c' }, 'c is on its slot, and the guest uses it'],
  [{ foreign: 'b' }, 'at b is on its slot, and it is foreign'],
  [{ affected: 'ENODEV' }, 'neither its slot nor its bus can be reset'],
  [{ affected: 'ENOTTY' }, 'neither its slot nor its bus can be reset'],
  [{ affected: 'EIO' }, 'reset on slot: EIO'],
] as const)('with %o, no device is touched: %s', (options, refused) => {
  const { run, steps } = slot(options);
  expect(run()).toEqual({ refused });
  expect(steps).toEqual([]);
});

test('that the guest uses the device that asks, or one that was removed, is no obstacle', () => {
  expect(slot({ busy: 'a' }).run()).toEqual({ done: 'at a, at b, at c' });
  const { run, added, steps } = slot({ busy: 'c' });
  added[2]?.[Symbol.dispose]();
  expect(run()).toEqual({ done: 'at a, at b, at c' });
  expect(steps).toEqual(['b before', 'reset', 'b after true']);
});
