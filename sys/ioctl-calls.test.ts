import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { errno } from './errno.js';
import { EventThreadClient, startEventThread } from './event-thread.js';
import { Fd } from './fd.js';
import { createInboxControl, Inbox } from './inbox.js';
import { InlineEventThread } from './inline-event-thread.js';
import { IOCTL_TASK, IoctlCalls } from './ioctl-calls.js';
import { type IoctlCall, type IoctlResult, start } from './ioctl-task.js';
import { openFds } from './testing/open-fds.js';

const FIONBIO = 0x5421;
const O_NONBLOCK = 0o4000;
const isNonBlocking = (fd: Fd): boolean => (Number(flagsOf(fd)) & O_NONBLOCK) !== 0;
const flagsOf = (fd: Fd): string =>
  `0o${/flags:\s+(\d+)/.exec(readFileSync(`/proc/self/fdinfo/${fd.number}`, 'latin1'))?.[1]}`;

/** Makes reads of a descriptor block or not, which shows in /proc. Those of our eventfds do not. */
const setNonBlocking = (fd: Fd, isOn: boolean): IoctlCall => ({
  fd: fd.number,
  request: FIONBIO,
  argument: new Uint8Array(new Int32Array([isOn ? 1 : 0]).buffer),
});
const REFUSED: Omit<IoctlCall, 'fd'> = { request: 0x1234, argument: new Uint8Array(8) };

test('an event thread makes the calls, says so, and gives each one’s result', async () => {
  const before = openFds();
  const control = createInboxControl();
  const thread = startEventThread(control);
  try {
    using a = Fd.eventfd('a');
    using b = Fd.eventfd('b');
    const inbox = new Inbox(control);
    const eventThread = new EventThreadClient(thread.link, inbox);
    for (const where of ['shared', 'own'] as const) {
      let made: readonly IoctlResult[] | undefined;
      const calls = [setNonBlocking(a, false), { fd: a.number, ...REFUSED }, setNonBlocking(b, false)];
      const making = new IoctlCalls(eventThread, where, calls, () => {
        made = making.results();
        making[Symbol.dispose]();
      });
      while (made === undefined) {
        inbox.wait(1000);
        inbox.drain();
      }
      expect([isNonBlocking(a), isNonBlocking(b)]).toEqual([false, false]);
      expect(made.map(({ result }) => result)).toEqual([0, -errno.ENOTTY, 0]);
      using undone = new IoctlCalls(
        eventThread,
        where,
        [a, b].map((fd) => setNonBlocking(fd, true)),
        () => {},
      );
      expect(undone.finish()).toHaveLength(2);
      expect([isNonBlocking(a), isNonBlocking(b)]).toEqual([true, true]);
    }
  } finally {
    thread.stop();
    await thread.ended;
  }
  await expect.poll(openFds, { timeout: 10_000 }).toEqual(before);
});

test('none is made before the owner goes on, and none after the disposal', () => {
  using a = Fd.eventfd('a');
  using eventThread = new InlineEventThread(new Map([[IOCTL_TASK.href, start]]));
  const news: string[] = [];
  const calls = new IoctlCalls(eventThread, 'shared', [setNonBlocking(a, false)], () => news.push('made'));
  expect([calls.results(), isNonBlocking(a)]).toEqual([[], true]);
  calls[Symbol.dispose]();
  eventThread.pump();
  expect([isNonBlocking(a), news]).toEqual([true, []]);
});

test('whoever waits for them is told once that all were made, as if they had not waited', () => {
  using a = Fd.eventfd('a');
  using eventThread = new InlineEventThread(new Map([[IOCTL_TASK.href, start]]));
  const news: string[] = [];
  using calls = new IoctlCalls(
    eventThread,
    'shared',
    [setNonBlocking(a, true), setNonBlocking(a, false)],
    () => news.push('made'),
  );
  expect(calls.finish()).toHaveLength(2);
  eventThread.pump();
  expect([calls.results().length, news]).toEqual([2, ['made']]);
});
