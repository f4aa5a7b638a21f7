import { expect, test } from 'vitest';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { Counters, RunReport } from '../protocol.js';
import { READ_EVERY_MS, StatusReader } from './status.js';

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
  expect(await reader.read()).toEqual({ at: now, state: 'running', counters: counted(2) });
  expect(source.calls()).toBe(2);
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
