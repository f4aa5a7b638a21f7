import { afterEach, beforeEach, expect, test } from 'vitest';
import { Fd } from '../../sys/fd.js';
import { Scope } from '../../sys/scope.js';
import {
  VFIO_IRQ_SET_DATA_BOOL as BOOL,
  VFIO_IRQ_SET_DATA_EVENTFD as EVENTFD,
  VFIO_PCI_INTX_IRQ_INDEX as INTX,
  VFIO_IRQ_SET_ACTION_MASK as MASK,
  VFIO_PCI_MSI_IRQ_INDEX as MSI,
  VFIO_PCI_MSIX_IRQ_INDEX as MSIX,
  VFIO_IRQ_SET_DATA_NONE as NONE,
  VFIO_PCI_REQ_IRQ_INDEX as REQ,
  VFIO_IRQ_SET_ACTION_TRIGGER as TRIGGER,
  VFIO_IRQ_SET_ACTION_UNMASK as UNMASK,
} from '../../vfio/uapi.js';
import { taken } from '../virtio-net/testing/workbench.js';
import { DeviceInterrupts, type InterruptTargets } from './device-interrupts.js';

const VECTORS = 4;
const MESSAGES = 8;

let scope: Scope;
let interrupts: DeviceInterrupts;
let targets: InterruptTargets | undefined;
let masks: boolean[];
let isIntxDisabled: boolean;

beforeEach(() => {
  scope = new Scope();
  targets = undefined;
  masks = [];
  isIntxDisabled = false;
  interrupts = scope.own(
    new DeviceInterrupts(
      'test',
      { msix: VECTORS, msi: MESSAGES },
      {
        retarget: (to) => {
          targets = to;
        },
        maskIntx: (isMasked) => void masks.push(isMasked),
        isIntxDisabled: () => isIntxDisabled,
      },
    ),
  );
});
afterEach(() => scope[Symbol.dispose]());

const eventfd = () => scope.own(Fd.eventfd());
const set = (index: number, flags: number, start: number, count: number, data?: readonly number[]) =>
  interrupts.set({ index, flags, start, count, ...(data && { data }) });
const code = (...args: Parameters<typeof set>): string => {
  try {
    set(...args);
    return 'ok';
  } catch (error) {
    return (error as { code?: string }).code ?? String(error);
  }
};
/** Whether each vector has an eventfd; undefined while MSI-X is off. */
const vectors = () => targets?.msix?.map((fd) => fd >= 0);

test('MSI-X eventfds: a count of 0 changes nothing while it is on, and is ERANGE to turn it on', () => {
  expect(code(MSIX, EVENTFD | TRIGGER, 0, 0, [])).toBe('ERANGE');
  expect(interrupts.isMsixEnabled).toBe(false);
  set(MSIX, EVENTFD | TRIGGER, 0, 2, [eventfd().number, -1]);
  expect(code(MSIX, EVENTFD | TRIGGER, 0, 0, [])).toBe('ok');
  expect(code(MSIX, EVENTFD | TRIGGER, 3, 0, [])).toBe('ok');
  expect(vectors()).toEqual([true, false]);
});

test('MSI-X turned on by a start and no count has vectors up to the start, none with an eventfd', () => {
  expect(code(MSIX, EVENTFD | TRIGGER, 3, 0, [])).toBe('ok');
  expect(vectors()).toEqual([false, false, false]);
});

test('an MSI-X eventfd that is refused takes along its vector and those before it in the call, or MSI-X stays off', () => {
  const [a, b, c] = [eventfd(), eventfd(), eventfd()].map(({ number }) => number) as [number, number, number];
  const bad = 1_000_000;
  expect(code(MSIX, EVENTFD | TRIGGER, 0, 2, [a, bad])).toBe('EBADF');
  expect(interrupts.isMsixEnabled).toBe(false);
  set(MSIX, EVENTFD | TRIGGER, 0, 4, [a, b, c, a]);
  expect(code(MSIX, EVENTFD | TRIGGER, 1, 3, [c, bad, c])).toBe('EBADF');
  expect(vectors()).toEqual([true, false, false, true]);
});

test('MSI-X takes more vectors while it is on, in any order, up to those of the index', () => {
  const [a, b, c] = [eventfd(), eventfd(), eventfd()] as [Fd, Fd, Fd];
  set(MSIX, EVENTFD | TRIGGER, 0, 1, [a.number]);
  expect(code(MSIX, EVENTFD | TRIGGER, 3, 1, [b.number])).toBe('ok');
  expect(vectors()).toEqual([true, false, false, true]);
  expect(code(MSIX, EVENTFD | TRIGGER, 1, 2, [-1, c.number])).toBe('ok');
  expect(vectors()).toEqual([true, false, true, true]);
  set(MSIX, BOOL | TRIGGER, 0, 4, [0, 1, 0, 1]);
  expect([a, b, c].map(taken)).toEqual([0, 1, 0]);
  for (const [start, count] of [
    [4, 1],
    [3, 2],
  ] as const) {
    expect(code(MSIX, EVENTFD | TRIGGER, start, count, [c.number, c.number])).toBe('EINVAL');
    expect(code(MSIX, NONE | TRIGGER, start, count)).toBe('EINVAL');
  }
  expect(vectors()).toEqual([true, false, true, true]);
  set(MSIX, NONE | TRIGGER, 0, 0);
  set(MSIX, EVENTFD | TRIGGER, 0, 1, [a.number]);
  expect(vectors(), 'off and on again').toEqual([true]);
});

test('an MSI-X eventfd that is refused in a call for more vectors leaves MSI-X on with those before the call', () => {
  const [a, b] = [eventfd(), eventfd()] as [Fd, Fd];
  set(MSIX, EVENTFD | TRIGGER, 0, 1, [a.number]);
  expect(code(MSIX, EVENTFD | TRIGGER, 2, 2, [b.number, 1_000_000])).toBe('EBADF');
  expect(interrupts.isMsixEnabled).toBe(true);
  expect(vectors()?.indexOf(true)).toBe(0);
  expect(vectors()?.lastIndexOf(true)).toBe(0);
});

test('while MSI-X is on, NONE and BOOL take any vectors of the index, and interrupt for those with an eventfd', () => {
  const [a, b] = [eventfd(), eventfd()] as [Fd, Fd];
  for (const data of [NONE, BOOL]) expect(code(MSIX, data | TRIGGER, 0, 1, [1])).toBe('EINVAL');
  set(MSIX, EVENTFD | TRIGGER, 0, 2, [a.number, b.number]);
  expect(code(MSIX, NONE | TRIGGER, 1, 3)).toBe('ok');
  expect([a, b].map(taken)).toEqual([0, 1]);
  expect(code(MSIX, BOOL | TRIGGER, 0, 4, [1, 0, 1, 1])).toBe('ok');
  expect([a, b].map(taken)).toEqual([1, 0]);
  expect(code(MSIX, NONE | TRIGGER, 3, 1)).toBe('ok');
  expect([a, b].map(taken)).toEqual([0, 0]);
});

test('MSI-X has MASK and UNMASK for no kind of data: ENOTTY', () => {
  set(MSIX, EVENTFD | TRIGGER, 0, 1, [-1]);
  for (const action of [MASK, UNMASK])
    for (const type of [NONE, BOOL, EVENTFD]) expect(code(MSIX, type | action, 0, 1, [1])).toBe('ENOTTY');
});

test('REQ without an eventfd: NONE is EINVAL with any count, BOOL does nothing', () => {
  expect(code(REQ, NONE | TRIGGER, 0, 0)).toBe('EINVAL');
  expect(code(REQ, NONE | TRIGGER, 0, 1)).toBe('EINVAL');
  expect(code(REQ, BOOL | TRIGGER, 0, 1, [1])).toBe('ok');
});

test('REQ with an eventfd: NONE signals it, with a count of 0 it takes it away; EVENTFD and BOOL need a count', () => {
  const request = eventfd();
  expect(code(REQ, EVENTFD | TRIGGER, 0, 0, [request.number])).toBe('EINVAL');
  set(REQ, EVENTFD | TRIGGER, 0, 1, [request.number]);
  expect(code(REQ, EVENTFD | TRIGGER, 0, 0, [])).toBe('EINVAL');
  expect(code(REQ, BOOL | TRIGGER, 0, 0, [])).toBe('EINVAL');
  set(REQ, NONE | TRIGGER, 0, 1);
  set(REQ, BOOL | TRIGGER, 0, 1, [0]);
  expect(taken(request)).toBe(1);
  set(REQ, BOOL | TRIGGER, 0, 1, [255]);
  expect(taken(request)).toBe(1);
  set(REQ, NONE | TRIGGER, 0, 0);
  interrupts.request();
  expect(taken(request)).toBe(0);
  expect(code(REQ, NONE | TRIGGER, 0, 0)).toBe('EINVAL');
});

test('REQ keeps its eventfd when the next one is refused, and -1 takes it away', () => {
  const request = eventfd();
  set(REQ, EVENTFD | TRIGGER, 0, 1, [request.number]);
  expect(code(REQ, EVENTFD | TRIGGER, 0, 1, [1_000_000])).toBe('EBADF');
  interrupts.request();
  expect(taken(request)).toBe(1);
  set(REQ, EVENTFD | TRIGGER, 0, 1, [-1]);
  expect(code(REQ, NONE | TRIGGER, 0, 1)).toBe('EINVAL');
});

test('a second eventfd that unmasks INTx is EBUSY until the first is taken away or closed', () => {
  set(INTX, EVENTFD | TRIGGER, 0, 1, [eventfd().number]);
  const [first, second] = [Fd.eventfd(), eventfd()];
  set(INTX, EVENTFD | UNMASK, 0, 1, [first.number]);
  const { unmask } = targets as InterruptTargets;
  expect(code(INTX, EVENTFD | UNMASK, 0, 1, [1_000_000])).toBe('EBADF');
  for (const { number } of [first, second])
    expect(code(INTX, EVENTFD | UNMASK, 0, 1, [number])).toBe('EBUSY');
  expect(targets?.unmask).toBe(unmask);
  set(INTX, EVENTFD | UNMASK, 0, 1, [-1]);
  expect(targets?.unmask).toBe(-1);
  set(INTX, EVENTFD | UNMASK, 0, 1, [first.number]);
  const { number } = first;
  first[Symbol.dispose]();
  // Whoever gets the number next is not the first.
  const next = eventfd();
  expect(next.number).toBe(number);
  expect(code(INTX, EVENTFD | UNMASK, 0, 1, [second.number])).toBe('ok');
});

test('INTx off and on again has no eventfd that unmasks', () => {
  const line = eventfd();
  set(INTX, EVENTFD | TRIGGER, 0, 1, [line.number]);
  set(INTX, EVENTFD | UNMASK, 0, 1, [eventfd().number]);
  set(INTX, NONE | TRIGGER, 0, 0);
  set(INTX, EVENTFD | TRIGGER, 0, 1, [line.number]);
  expect(targets?.unmask).toBe(-1);
  expect(code(INTX, EVENTFD | UNMASK, 0, 1, [eventfd().number])).toBe('ok');
});

test('a trigger of INTx by the user interrupts, unless the command register disables INTx', () => {
  const line = eventfd();
  set(INTX, EVENTFD | TRIGGER, 0, 1, [line.number]);
  isIntxDisabled = true;
  set(INTX, NONE | TRIGGER, 0, 1);
  set(INTX, BOOL | TRIGGER, 0, 1, [1]);
  expect(taken(line)).toBe(0);
  isIntxDisabled = false;
  set(INTX, NONE | TRIGGER, 0, 1);
  expect(taken(line)).toBe(1);
});

test('INTx is masked and unmasked by NONE, by BOOL that is not 0, and not by BOOL that is', () => {
  expect(code(INTX, NONE | MASK, 0, 1)).toBe('EINVAL');
  set(INTX, EVENTFD | TRIGGER, 0, 1, [-1]);
  set(INTX, NONE | MASK, 0, 1);
  set(INTX, BOOL | UNMASK, 0, 1, [0]);
  expect(masks).toEqual([true]);
  set(INTX, BOOL | UNMASK, 0, 1, [7]);
  expect(masks).toEqual([true, false]);
  expect(code(INTX, EVENTFD | MASK, 0, 1, [-1])).toBe('ENOTTY');
});

test('MSI keeps the number of messages that it was enabled with, and replaces the eventfds of those', () => {
  const [a, b] = [eventfd(), eventfd()] as [Fd, Fd];
  expect(code(MSI, EVENTFD | TRIGGER, 0, 0, [])).toBe('ERANGE');
  set(MSI, EVENTFD | TRIGGER, 0, 2, [a.number, -1]);
  expect(targets?.msi?.map((fd) => fd >= 0)).toEqual([true, false]);
  expect(interrupts.enabledMsi).toBe(2);
  expect(code(MSI, EVENTFD | TRIGGER, 2, 1, [b.number])).toBe('EINVAL');
  expect(code(MSI, EVENTFD | TRIGGER, 1, 1, [b.number])).toBe('ok');
  expect(code(MSI, NONE | TRIGGER, 0, MESSAGES)).toBe('ok');
  expect([a, b].map(taken)).toEqual([1, 1]);
  expect(code(MSI, EVENTFD | TRIGGER, 0, MESSAGES + 1, [])).toBe('EINVAL');
  set(MSI, NONE | TRIGGER, 0, 0);
  expect(targets?.msi).toBeUndefined();
  expect(interrupts.enabledMsi).toBe(0);
});

test('of INTx, MSI and MSI-X, one that is enabled keeps the others out until it is disabled', () => {
  const kinds = [INTX, MSI, MSIX] as const;
  for (const enabled of kinds) {
    set(enabled, EVENTFD | TRIGGER, 0, 1, [eventfd().number]);
    for (const other of kinds) {
      const answer = code(other, EVENTFD | TRIGGER, 0, 1, [eventfd().number]);
      expect(answer, `${other} while ${enabled} is enabled`).toBe(other === enabled ? 'ok' : 'EINVAL');
    }
    set(enabled, NONE | TRIGGER, 0, 0);
  }
});
