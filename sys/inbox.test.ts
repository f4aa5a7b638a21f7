import { once } from 'node:events';
import { MessageChannel, Worker } from 'node:worker_threads';
import { expect, test } from 'vitest';
import { createInboxControl, Inbox, InboxBell, InboxSender } from './inbox.js';
import { installKickSignal } from './kick.js';
import { Mapping } from './mapping.js';

/** Words of the control block. @see inbox.ts */
const RUNNING_TID = 1;
const RINGING = 6;

function setUp() {
  const control = createInboxControl();
  const { port1, port2 } = new MessageChannel();
  const inbox = new Inbox(control);
  const heard: unknown[] = [];
  inbox.addPort(port2, (message) => {
    if (message === 'bad') throw new Error('told to fail');
    heard.push(message);
  });
  const close = () => port1.close();
  return { inbox, heard, sender: new InboxSender(port1, control), close };
}

test('messages after one whose delivery throws are still news', () => {
  const { inbox, heard, sender, close } = setUp();
  for (const message of [1, 'bad', 2]) sender.send(message);
  expect(() => inbox.drain()).toThrowError('told to fail');
  expect(heard).toEqual([1]);
  expect(inbox.hasNews).toBe(true);
  inbox.drain();
  expect(heard).toEqual([1, 2]);
  expect(inbox.hasNews).toBe(false);
  close();
});

test('a sender kicks the vCPU that runs now, not the one that it kicked before', () => {
  installKickSignal();
  using memory = Mapping.anonymous(4096);
  const bytes = memory.view.slice(0, 2);
  const { inbox, sender, close } = setUp();
  for (const [vcpu, expected] of [
    [0, [1, 0]],
    [1, [0, 1]],
  ] as const) {
    bytes.fill(0);
    inbox.enterRun(memory.view.address + vcpu);
    sender.send('kick');
    inbox.leaveRun();
    expect([...bytes]).toEqual(expected);
  }
  bytes.fill(0);
  sender.send('no kick');
  expect([...bytes]).toEqual([0, 0]);
  close();
});

test('a bell sets the byte of a thread in KVM_RUN, and none afterwards', () => {
  installKickSignal();
  using page = Mapping.anonymous(4096);
  const control = createInboxControl();
  const [inbox, bell] = [new Inbox(control), new InboxBell(control)];
  const byte = page.view.slice(8, 1);
  inbox.enterRun(page.view.address + 8);
  bell.ring();
  expect(byte[0]).toBe(1);
  byte[0] = 0;
  inbox.leaveRun();
  bell.ring();
  expect(byte[0]).toBe(0);
  expect(inbox.words[RINGING]).toBe(0);
});

test('of two vCPUs that a thread runs in turn, each is kicked until it is left itself', () => {
  installKickSignal();
  using page = Mapping.anonymous(4096);
  const control = createInboxControl();
  const [inbox, bell] = [new Inbox(control), new InboxBell(control)];
  const bytes = page.view.slice(8, 2);
  const [first, second] = [page.view.address + 8, page.view.address + 9];
  inbox.enterRun(first);
  inbox.enterRun(second);
  bell.ring();
  expect([...bytes]).toEqual([1, 1]);
  bytes.fill(0);
  inbox.leaveRun(first);
  bell.ring();
  expect([...bytes]).toEqual([0, 1]);
  bytes.fill(0);
  inbox.leaveRun(second);
  bell.ring();
  expect([...bytes]).toEqual([0, 0]);
});

test('the ninth vCPU of a thread is refused, and a place that was left is free again', () => {
  using page = Mapping.anonymous(4096);
  const inbox = new Inbox(createInboxControl());
  for (let i = 0; i < 8; i++) inbox.enterRun(page.view.address + i);
  expect(() => inbox.enterRun(page.view.address + 8)).toThrowError(/8 vCPUs at most/);
  inbox.leaveRun(page.view.address + 3);
  inbox.enterRun(page.view.address + 8);
  inbox.leaveRun();
});

test('a bell kicks a thread that blocks in other calls, and writes nothing', () => {
  installKickSignal();
  const control = createInboxControl();
  const [inbox, bell] = [new Inbox(control), new InboxBell(control)];
  inbox.enterCalls();
  bell.ring(); // a write to address 0 would end the process
  expect(inbox.hasNews).toBe(true);
  inbox.leaveRun();
});

test('a run is left only when no bell can write to its byte any more', async () => {
  const control = createInboxControl();
  const inbox = new Inbox(control);
  inbox.enterRun(4096);
  Atomics.add(inbox.words, RINGING, 1); // a bell that has read the thread’s id, and not written yet
  const source = `
    const { parentPort, workerData } = require('node:worker_threads');
    const words = new Int32Array(workerData);
    parentPort.postMessage('up');
    while (Atomics.load(words, ${RUNNING_TID}) !== 0);
    Atomics.wait(words, ${RINGING}, 1, 50);
    Atomics.store(words, 7, 1); // the write
    Atomics.sub(words, ${RINGING}, 1);
  `;
  const worker = new Worker(source, { eval: true, workerData: control });
  await once(worker, 'message');
  inbox.leaveRun();
  expect(Atomics.load(inbox.words, 7)).toBe(1);
  await once(worker, 'exit');
});
