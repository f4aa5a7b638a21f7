import { expect, test } from 'vitest';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { Counters, RunReport } from '../protocol.js';
import { MOST_SLICE, READ_EVERY_MS, READ_MEMORY_EVERY_MS, StatusReader } from './status.js';

const counted = (io: number): Counters => ({ exits: { io }, accesses: { COM1: io }, devices: [] });
const REPORT: RunReport = {
  ...counted(9),
  outcome: { kind: 'verdict', status: 0 },
  phases: [],
  dropped: {},
};

/** A machine whose counters are the number of calls, until `fail`. */
function machine() {
  let end!: (report: RunReport) => void;
  let crash!: (error: Error) => void;
  const finished = new Promise<RunReport>((resolve, reject) => {
    end = resolve;
    crash = reject;
  });
  let calls = 0;
  let failure: Error | undefined;
  return {
    finished,
    end,
    crash,
    calls: () => calls,
    fail: (error: Error) => {
      failure = error;
    },
    async counters() {
      calls++;
      if (failure !== undefined) throw failure;
      return counted(calls);
    },
  };
}

const refusal = (code: 'ESRCH' | 'ECONNRESET' | 'EBUSY' | 'ENOMEM') =>
  new SysError({ call: 'counters', target: 'the machine', errno: errno[code] });

test('however many ask, the machine is asked once in its time', async () => {
  let now = 0;
  const source = machine();
  const reader = new StatusReader(source, () => now);
  const many = await Promise.all(Array.from({ length: 10 }, () => reader.read()));
  expect(new Set(many).size).toBe(1);
  now += READ_EVERY_MS - 1;
  expect((await reader.read()).counters).toEqual(counted(1));
  now++;
  const state = { state: 'running', timeline: { version: 0, end: 0 }, controls: [] };
  expect(await reader.read()).toEqual({ at: now, counters: counted(2), ...state });
  expect(source.calls()).toBe(2);
});

test('the memory map, which is slow to read, is read seldom, and shown in between', async () => {
  let now = 0;
  let reads = 0;
  const inspectMemory = async () => {
    reads++;
    return [];
  };
  const reader = new StatusReader({ ...machine(), inspectMemory }, () => now);
  for (; now < READ_MEMORY_EVERY_MS; now += READ_EVERY_MS) expect((await reader.read()).memory).toEqual([]);
  expect(reads).toBe(1);
  expect((await reader.read()).memory).toEqual([]);
  expect(reads).toBe(2);
});

test('what was last stays after the end, with the counters of the report and the outcome', async () => {
  let now = 0;
  const source = machine();
  const reader = new StatusReader(source, () => now);
  await reader.read();
  source.end(REPORT);
  await source.finished;
  now += 1000;
  const { outcome, state, counters } = await reader.read();
  expect([outcome, state, counters]).toEqual([REPORT.outcome, 'ended', counted(9)]);
  expect(source.calls()).toBe(1);
});

test('the timeline is given in slices, and from the start if it is another: after a restart, or if it was cut', async () => {
  let now = 0;
  const event = (seq: number) => ({
    at: seq,
    what: 'map_dma',
    seq,
    cause: 0,
    task: '',
    details: { iova: 4096n },
  });
  const range = (from: number, to: number) =>
    Array.from({ length: to - from + 1 }, (_, i) => event(from + i));
  let record = { events: range(1, 1500), dropped: 0 };
  const reader = new StatusReader({ ...machine(), timeline: async () => record }, () => now);
  const next = async () => {
    now += READ_EVERY_MS;
    return (await reader.read()).timeline;
  };
  const mark = await next();
  expect(mark.end).toBe(1500);
  const first = reader.timelineAfter({ version: mark.version, end: 0 });
  expect(first).toEqual({ version: mark.version, end: MOST_SLICE, events: range(1, MOST_SLICE), dropped: 0 });
  expect(reader.timelineAfter(first).events).toEqual(range(1001, 1500));
  expect(reader.timelineAfter(mark)).toEqual({ ...mark, events: [], dropped: 0 });
  record = { events: range(1, 1600), dropped: 0 };
  expect(await next()).toEqual({ version: mark.version, end: 1600 });
  expect(reader.timelineAfter(mark).events).toEqual(range(1501, 1600));
  for (const other of [
    { events: [...range(1, 800), ...range(1001, 1700)], dropped: 200 },
    { events: range(2001, 2010), dropped: 0 },
    { events: range(3001, 3900), dropped: 0 },
  ]) {
    const before = await next();
    record = other;
    const after = await next();
    expect(after.version).not.toBe(before.version);
    expect(reader.timelineAfter(before).events).toEqual(other.events.slice(0, MOST_SLICE));
  }
});

test('a machine that fails keeps its last counters, and says why', async () => {
  const source = machine();
  const reader = new StatusReader(source);
  await reader.read();
  source.crash(new Error('KVM_RUN: EFAULT'));
  await source.finished.catch(() => {});
  expect(await reader.read()).toMatchObject({
    state: 'ended',
    failure: 'KVM_RUN: EFAULT',
    counters: counted(1),
  });
});

test('a call that a restart or the end interrupts changes nothing; another failure is told', async () => {
  let now = 0;
  const source = machine();
  const reader = new StatusReader(source, () => now);
  const before = await reader.read();
  for (const code of ['ESRCH', 'ECONNRESET', 'EBUSY'] as const) {
    now += READ_EVERY_MS;
    source.fail(refusal(code));
    expect(await reader.read()).toBe(before);
  }
  now += READ_EVERY_MS;
  source.fail(refusal('ENOMEM'));
  expect((await reader.read()).failure).toMatch(/ENOMEM/);
});
