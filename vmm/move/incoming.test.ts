import { expect, test } from 'vitest';
import type { StateSection } from '../../sys/state-sections.js';
import { Calls } from '../calls.js';
import type { CallCommand } from '../machine-calls.js';
import type { Outcome } from '../outcome.js';
import type { DeviceStateCommand, StateCommand } from '../protocol.js';
import { Incoming, type StartedMachine } from './incoming.js';
import { PAUSED_SECTION } from './paused-section.js';

const piece = { place: '3.0', data: Buffer.alloc(1) };
const section = (name: string, ...data: number[]): StateSection => ({
  name,
  version: 1,
  data: Uint8Array.from(data),
});

/** A machine that was started from what comes, and how it ends. */
function started() {
  const incoming = Incoming.of({}, {});
  const sent: (StateCommand | DeviceStateCommand)[] = [];
  const called: CallCommand[] = [];
  const calls = new Calls();
  calls.connect((command) => called.push(command));
  let end: (outcome: Outcome) => void = () => {};
  const finished = new Promise<{ readonly outcome: Outcome }>((resolve) => {
    end = (outcome) => resolve({ outcome });
  });
  const memory = { bytes: 0, slice: () => new Uint8Array() };
  const machine: StartedMachine = {
    ...{ calls, finished, memory: () => memory },
    send: (command) => sent.push(command),
  };
  return { incoming, machine, sent, called, end };
}

async function arrived() {
  const world = started();
  const arriving = world.incoming.arrive(world.machine);
  world.incoming.hear({ kind: 'built' });
  return { ...world, received: await arriving };
}

/** Whether a promise has settled once everything that was due has happened. */
async function hasSettled(promise: Promise<unknown>): Promise<boolean> {
  let isSettled = false;
  void promise.then(() => {
    isSettled = true;
  });
  await new Promise(setImmediate);
  return isSettled;
}

test('the machine is there once its devices are open', async () => {
  const { incoming, machine } = started();
  const arriving = incoming.arrive(machine);
  expect(await hasSettled(arriving)).toBe(false);
  incoming.hear({ kind: 'built' });
  expect((await arriving).memory).toBe(machine.memory());
});

test('a piece of a device that is waited for is taken once the machine says so', async () => {
  const { incoming, received, sent } = await arrived();
  for (let i = 0; i < 3; i++) {
    const taken = received.device(piece);
    expect(sent.splice(0)).toEqual([{ kind: 'device-state', piece }]);
    expect(await hasSettled(taken)).toBe(false);
    incoming.hear({ kind: 'taken' });
    await taken;
  }
});

test('its state is loaded once its vCPUs are at rest, and it goes on as it was: paused, or not', async () => {
  for (const isPaused of [true, false]) {
    const { incoming, received, sent, called } = await arrived();
    const rest = [section('vm/clock', 7)];
    const loaded = received.load([section(PAUSED_SECTION, isPaused ? 1 : 0), ...rest]);
    expect(sent).toEqual([{ kind: 'state', state: { sections: rest, target: 'the moved machine' } }]);
    expect(await hasSettled(loaded)).toBe(false);
    incoming.hear({ kind: 'state', state: 'paused' });
    await loaded;
    void received.takeOver();
    expect(called).toMatchObject([{ name: 'takeOver', args: [isPaused] }]);
  }
});

test('the end of the machine ends the wait for a piece that it has, and for each later one', async () => {
  const { end, received } = await arrived();
  const waiting = expect(received.device(piece)).rejects.toThrowError('the machine has ended');
  end({ kind: 'stopped', by: 'a test' });
  await waiting;
  await expect(received.device(piece)).rejects.toThrowError('{"kind":"stopped","by":"a test"}');
});

test('the end of the machine ends the wait for its devices, and for its state', async () => {
  const early = started();
  const arriving = early.incoming.arrive(early.machine);
  early.end({ kind: 'powered-off' });
  await expect(arriving).rejects.toThrowError('the machine has ended: {"kind":"powered-off"}');
  const late = await arrived();
  const loading = late.received.load([]);
  late.end({ kind: 'powered-off' });
  await expect(loading).rejects.toThrowError('the machine has ended');
});
