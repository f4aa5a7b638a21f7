import { expect, test } from 'vitest';
import { EventThreadClient, startEventThread } from './event-thread.js';
import { signalEventfd } from './eventfd.js';
import { Fd } from './fd.js';
import { createInboxControl, Inbox } from './inbox.js';
import { threadCount } from './testing/open-fds.js';
import { workerUrl } from './worker-url.js';

const echoTask = workerUrl('sys/testing/echo-task.js');

async function withThread(use: (client: EventThreadClient, inbox: Inbox) => void): Promise<void> {
  const control = createInboxControl();
  const inbox = new Inbox(control);
  const thread = startEventThread(control);
  try {
    use(new EventThreadClient(thread.link, inbox), inbox);
  } finally {
    thread.stop();
    await thread.ended;
  }
}

test('a task answers calls, watches an eventfd edge by edge, and its notices wake the owner', async () => {
  await withThread((client, inbox) => {
    using bell = Fd.eventfd();
    using task = client.run(echoTask, { fd: bell.number });
    expect(task.call({ say: 'hello' })).toEqual({ say: 'hello' });
    const heard: unknown[] = [];
    task.receive = (message) => heard.push(message);
    for (const round of [1, 2, 3]) {
      signalEventfd(bell.number);
      while (heard.length < round) {
        inbox.wait(1000);
        inbox.drain();
      }
    }
    expect(heard).toEqual([{ rung: 1 }, { rung: 2 }, { rung: 3 }]);
  });
});

test('what a task throws in a call is thrown in the owner, and the thread goes on', async () => {
  await withThread((client) => {
    using task = client.run(echoTask, {});
    expect(() => task.call('throw')).toThrowError(/told to throw/);
    expect(task.call('again')).toBe('again');
  });
});

test('a module that is no task is refused by name', async () => {
  await withThread((client) => {
    const module = workerUrl('kvm/index.js');
    expect(() => client.run(module, {})).toThrowError(/index\.js has no export named start/);
  });
});

test('a failure on a data path reaches the owner as an error', async () => {
  await withThread((client, inbox) => {
    using bell = Fd.eventfd();
    using task = client.run(echoTask, { fd: bell.number, fail: true });
    expect(task.call(1)).toBe(1);
    signalEventfd(bell.number);
    expect(() => {
      for (;;) {
        inbox.wait(1000);
        inbox.drain();
      }
    }).toThrowError(/data path/);
  });
});

test('a thread that was stopped is gone', async () => {
  await withThread(() => {});
  const before = threadCount();
  for (let i = 0; i < 5; i++) await withThread(() => {});
  expect(threadCount()).toBeLessThanOrEqual(before);
});
