import { expect, test } from 'vitest';
import {
  createEventFlow,
  EventFlow,
  EventReceipts,
  MOST_EVENT_BYTES,
  MOST_SERIAL_BYTES,
} from './event-flow.js';
import { EventSource, MOST_STEPS } from './event-source.js';
import type { MachineEvent } from './protocol.js';

function workbench() {
  const buffer = createEventFlow();
  const flow = new EventFlow(buffer);
  const sent: MachineEvent[] = [];
  let drains = 0;
  const receipts = new EventReceipts(buffer, () => drains++);
  let isUrgent = false;
  const source = new EventSource({ flow, post: (event) => sent.push(event), isUrgent: () => isUrgent });
  return {
    flow,
    sent,
    source,
    readAll: () => sent.splice(0).map((event) => receipts.handled(event)),
    drains: () => drains,
    beUrgent: () => {
      isUrgent = true;
    },
  };
}

test('a guest can cause a thousand steps at once; those beyond are counted, and those of attaching are not limited', () => {
  const { source, sent, readAll } = workbench();
  for (let i = 0; i < 2 * MOST_STEPS; i++) source.step('attaching');
  expect(sent).toHaveLength(2 * MOST_STEPS);
  expect(source.dropped).toEqual({});
  readAll();
  source.isGuestRunning = true;
  for (let i = 0; i < 2 * MOST_STEPS; i++) source.step('MSI-X on');
  expect(sent.length).toBeGreaterThanOrEqual(MOST_STEPS);
  expect(sent.length).toBeLessThan(1.5 * MOST_STEPS);
  expect(source.dropped).toEqual({ steps: 2 * MOST_STEPS - sent.length });
  source.isGuestRunning = false;
  readAll();
  source.step('detached');
  expect(sent).toHaveLength(1);
});

test('twenty misuses are shown, the last with the way to see more, and the others are counted', () => {
  const { source, sent } = workbench();
  for (let i = 0; i < 50; i++) source.guestMisuse('card', `misuse ${i}`);
  expect(sent).toHaveLength(20);
  expect(sent.at(-1)).toMatchObject({
    text: expect.stringMatching(/misuse 19 \(no more .*--trace guestMisuse/),
  });
  expect(source.dropped).toEqual({ guestMisuses: 30 });
});

test('unread trace events take 4 MiB at most, and go on when they have been read', () => {
  const { source, sent, readAll, beUrgent } = workbench();
  beUrgent();
  const text = 'x'.repeat(1 << 16);
  for (let i = 0; i < 100; i++) source.trace('exit', text);
  expect(sent.length * text.length).toBeLessThanOrEqual(MOST_EVENT_BYTES);
  expect(source.dropped).toEqual({ traceEvents: 100 - sent.length });
  readAll();
  source.trace('exit', text);
  expect(sent).toHaveLength(1);
});

test('a trace waits for its reader once, not with every event', () => {
  const { source, sent } = workbench();
  const text = 'x'.repeat(MOST_EVENT_BYTES);
  source.trace('exit', text);
  for (let i = 0; i < 1000; i++) source.trace('exit', text);
  expect(sent).toHaveLength(1);
  expect(source.dropped).toEqual({ traceEvents: 1000 });
});

test('serial output has no room while 256 KiB of it are unread, and its end is announced once', () => {
  const { source, flow, sent, readAll, drains } = workbench();
  while (flow.hasSerialRoom) source.emit({ kind: 'serial', port: 0, bytes: new Uint8Array(256) });
  expect(sent.length * 256).toBeLessThanOrEqual(MOST_SERIAL_BYTES);
  expect(drains()).toBe(0);
  readAll();
  expect(flow.hasSerialRoom).toBe(true);
  expect(drains()).toBe(1);
});
