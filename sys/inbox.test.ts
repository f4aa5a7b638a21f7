import { MessageChannel, Worker } from 'node:worker_threads';
import { expect, test } from 'vitest';
import { createInboxControl, Inbox, InboxSender } from './inbox.js';
import { installKickSignal } from './kick.js';
import { Mapping } from './mapping.js';

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
  return { control, inbox, heard, sender: new InboxSender(port1, control), close };
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

test('kvm_run may be unmapped after leaveRun: a sender that was about to kick has done it by then', async () => {
  const { control, inbox, close } = setUp();
  const KICKING = 6;
  const words = new Int32Array(control, 0, 7);
  words[KICKING] = 1;
  const sender = new Worker(
    `const { workerData: words } = require('node:worker_threads');
     Atomics.store(words, 5, 0); // it looks at the address
     Atomics.wait(words, 5, 0, 100);
     Atomics.sub(words, ${KICKING}, 1);`,
    { eval: true, workerData: words },
  );
  inbox.leaveRun();
  expect(Atomics.load(words, KICKING)).toBe(0);
  await new Promise((resolve) => sender.once('exit', resolve));
  close();
});
