import { expect, test } from 'vitest';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { DeviceState } from '../inspection.js';
import { FakeControlledMachine } from '../testing/controlled-machine.js';
import { lastingReadings } from './lasting-readings.js';

const refusal = (code: 'ESRCH' | 'ECONNRESET' | 'EBUSY' | 'ENOMEM') =>
  new SysError({ call: 'counters', target: 'the machine', errno: errno[code] });

const device = (packets: number): DeviceState => ({
  ...{ name: '00:03.0 card', slot: 3, function: 0, device: 'card', description: 'a card', provider: 'core' },
  ...{ interface: 'group', group: 7, counters: { packets } },
});

test('what was last stays while the machine restarts; another failure is told, and so is one before any reading', async () => {
  const machine = new FakeControlledMachine();
  const lasting = lastingReadings(machine);
  machine.refusal = refusal('ECONNRESET');
  await expect(lasting.counters()).rejects.toBe(machine.refusal);
  machine.refusal = undefined;
  const before = await lasting.counters();
  machine.counts = { exits: {}, accesses: { COM1: 5 }, devices: [] };
  for (const code of ['ECONNRESET', 'EBUSY'] as const) {
    machine.refusal = refusal(code);
    expect(await lasting.counters()).toBe(before);
  }
  machine.refusal = refusal('ENOMEM');
  await expect(lasting.counters()).rejects.toBe(machine.refusal);
  machine.refusal = undefined;
  expect(await lasting.counters()).toBe(machine.counts);
});

test('what was last stays after the end, with the counters of the report', async () => {
  const machine = new FakeControlledMachine();
  const lasting = lastingReadings(machine);
  machine.devices = [device(1)];
  machine.record = { events: [], dropped: 2 };
  await Promise.all([lasting.counters(), lasting.inspectDevices(), lasting.timeline()]);
  const counted = {
    exits: { io: 9 },
    accesses: { COM1: 9 },
    devices: [{ name: '00:03.0 card', description: 'a card', counters: { packets: 4 } }],
  };
  machine.end({
    ...counted,
    outcome: { kind: 'verdict', status: 0 },
    phases: [],
    ffi: 'ffi-rs',
    dropped: {},
  });
  machine.refusal = refusal('ESRCH');
  await machine.finished;
  expect(await lasting.counters()).toEqual(counted);
  expect(await lasting.inspectDevices()).toEqual([device(4)]);
  expect(await lasting.timeline()).toBe(machine.record);
  await expect(lasting.inspectMemory()).rejects.toBe(machine.refusal); // it never was read
});

test('a machine that fails keeps its last counters; all other calls are the machine’s', async () => {
  const machine = new FakeControlledMachine();
  const lasting = lastingReadings(machine);
  const before = await lasting.counters();
  await lasting.pause();
  lasting.stop('a test');
  expect(machine.calls).toEqual(['pause', 'stop a test']);
  machine.end(new Error('KVM_RUN: EFAULT'));
  machine.refusal = new Error('KVM_RUN: EFAULT');
  expect(await lasting.counters()).toBe(before);
  expect([lasting.state, lasting.console]).toEqual(['ended', machine.console]);
});
