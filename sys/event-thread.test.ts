import { expect, test } from 'vitest';
import { SysError } from './error.js';
import { EventThreadClient, startEventThread } from './event-thread.js';
import { drainEventfd, isReadable, signalEventfd } from './eventfd.js';
import { Fd } from './fd.js';
import { createInboxControl, Inbox } from './inbox.js';
import { openFds, threadCount } from './testing/open-fds.js';
import type { TimerCommand, TimerNotice, TimerTaskData, Usage } from './testing/timer-task.js';
import { workerUrl } from './worker-url.js';

const echoTask = workerUrl('sys/testing/echo-task.js');
/** For what must happen, however busy the machine is. */
const PATIENCE_MS = 30_000;
const timerTask = workerUrl('sys/testing/timer-task.js');

/** Open descriptors once those of threads that are ending are closed; this thread does not return to its event loop. */
function fdsAfterEnds(wanted: number): readonly string[] {
  const end = performance.now() + PATIENCE_MS;
  for (;;) {
    const fds = openFds();
    if (fds.length <= wanted || performance.now() > end) return fds;
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10);
  }
}

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

test('a task with a thread of its own is heard, and the thread ends with it, and only then', async () => {
  await withThread((client, inbox) => {
    client.run(echoTask, {})[Symbol.dispose](); // once the shared thread is up
    using bell = Fd.eventfd();
    const [before, fds] = [threadCount(), openFds().length];
    const task = client.run(echoTask, { fd: bell.number }, 'own');
    expect(threadCount()).toBeGreaterThan(before);
    expect(task.call('hello')).toBe('hello');
    expect(() => task.call('throw')).toThrowError(/told to throw/);
    const heard: unknown[] = [];
    task.receive = (message) => heard.push(message);
    signalEventfd(bell.number);
    while (heard.length < 1) {
      inbox.wait(1000);
      inbox.drain();
    }
    expect(heard).toEqual([{ rung: 1 }]);
    task[Symbol.dispose]();
    expect(fdsAfterEnds(fds)).toHaveLength(fds);
    expect(() => task.call('again')).toThrowError('event thread: it has ended');
    expect(() => client.run(workerUrl('kvm/index.js'), {}, 'own')).toThrowError(/no export named start/);
    expect(fdsAfterEnds(fds)).toHaveLength(fds);
    using other = client.run(echoTask, {});
    expect(other.call('there')).toBe('there');
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

test('an error in the event thread reaches the owner as what it was, in one line, with its stack apart', async () => {
  await withThread((client) => {
    let caught: unknown;
    try {
      client.run(echoTask, { fd: 1_000_000 });
    } catch (error) {
      caught = error;
    }
    expect(caught).toBeInstanceOf(SysError);
    expect(caught).toMatchObject({ call: 'epoll_ctl EPOLL_CTL_ADD', code: 'EBADF' });
    expect((caught as Error).message).toBe('event thread: epoll_ctl EPOLL_CTL_ADD on fd 1000000: EBADF');
    expect((caught as Error).stack).toMatch(/event-loop\.js/);
  });
});

test.each([
  ['exit', /it has ended: a task called process\.exit\(3\)/],
  ['crash', /it has ended: told to crash/],
])(
  'a thread that ends unasked (%s) fails the owner’s calls and wakes it with the reason, though the owner never returns to its event loop',
  async (how, why) => {
    const control = createInboxControl();
    const inbox = new Inbox(control);
    const thread = startEventThread(control);
    const ended = thread.ended.catch(() => {});
    const client = new EventThreadClient(thread.link, inbox);
    const task = client.run(echoTask, {});
    task.post(how);
    inbox.wait(PATIENCE_MS);
    expect(() => inbox.drain()).toThrowError(why);
    expect(() => task.call('again')).toThrowError('event thread: it has ended');
    expect(() => client.run(echoTask, {})).toThrowError('event thread: it has ended');
    // Its tasks have ended with it.
    expect(() => task[Symbol.dispose]()).not.toThrow();
    await ended;
  },
);

test('a call that ends the thread instead of being answered fails, though the owner never returns to its event loop', async () => {
  const control = createInboxControl();
  const thread = startEventThread(control);
  const task = new EventThreadClient(thread.link, new Inbox(control)).run(echoTask, {});
  expect(() => task.call('exit')).toThrowError('event thread: it has ended');
  await thread.ended;
});

test('a task that is disposed after its thread was stopped does not wait for it, and does not fail', async () => {
  const control = createInboxControl();
  const thread = startEventThread(control);
  const task = new EventThreadClient(thread.link, new Inbox(control)).run(echoTask, {});
  thread.stop();
  task[Symbol.dispose]();
  await thread.ended;
});

test('a thread that was stopped is gone', async () => {
  await withThread(() => {});
  const before = threadCount();
  for (let i = 0; i < 5; i++) await withThread(() => {});
  await expect.poll(threadCount, { timeout: 10_000 }).toBeLessThanOrEqual(before);
});

/** A task that obeys, and the timers that have fired in it. */
interface Timers {
  readonly fired: string[];
  obey(command: TimerCommand): unknown;
  /** Waits until `name` has fired `times` times. */
  until(name: string, times?: number): void;
}

async function withTimers(use: (timers: Timers, client: EventThreadClient) => void): Promise<void> {
  await withThread((client, inbox) => {
    using task = client.run(timerTask, {});
    const fired: string[] = [];
    task.receive = (message) => {
      const { name, isEarly } = message as TimerNotice;
      expect(isEarly).toBe(false);
      fired.push(name);
    };
    const until = (name: string, times = 1) => {
      const giveUp = performance.now() + PATIENCE_MS;
      while (fired.filter((each) => each === name).length < times) {
        if (performance.now() > giveUp) throw new Error(`${name} has not fired ${times} times`);
        inbox.wait(1000);
        inbox.drain();
      }
    };
    use({ fired, obey: (command) => task.call(command), until }, client);
  });
}

test('timers fire in the order of their times, never early, and a cancelled one does not', async () => {
  await withTimers(({ fired, obey, until }) => {
    obey({
      kind: 'set',
      ms: { last: 450, middle: 300, cancelled: 200, first: 150, atOnce: 0 },
      cancel: 'cancelled',
    });
    until('last');
    expect(fired).toEqual(['atOnce', 'first', 'middle', 'last']);
    // One that has fired can be cancelled, too.
    obey({ kind: 'set', ms: {}, cancel: 'first' });
  });
});

test('a timer that sets itself again in its callback is periodic, and descriptors are served meanwhile', async () => {
  await withTimers(({ obey, until }, client) => {
    using bell = Fd.eventfd();
    using echo = client.run(echoTask, { fd: bell.number });
    let isRung = false;
    echo.receive = () => {
      isRung = true;
    };
    obey({ kind: 'spin', name: 'always' });
    signalEventfd(bell.number);
    obey({ kind: 'repeat', name: 'tick', ms: 1, times: 5 });
    until('tick', 5);
    expect(isRung).toBe(true);
    obey({ kind: 'set', ms: {}, cancel: 'always' });
  });
});

test('what is stopped, or did not start, has no timers any more', async () => {
  await withTimers(({ obey, until }, client) => {
    using bell = Fd.eventfd();
    const data: TimerTaskData = { fd: bell.number };
    const later = () => {
      obey({ kind: 'set', ms: { later: 10 } });
      until('later', ++laters);
      return isReadable(bell.number);
    };
    let laters = 0;
    expect(() => client.run(timerTask, { ...data, failsToStart: true })).toThrowError(/told not to start/);
    expect(later()).toBe(false);
    const task = client.run(timerTask, data);
    expect(later()).toBe(true);
    drainEventfd(bell.number);
    task[Symbol.dispose]();
    expect(later()).toBe(false);
  });
});

test('what a timer throws reaches the owner as an error of the data path, and other timers fire', async () => {
  await withTimers(({ obey, until }) => {
    obey({ kind: 'throw', ms: 1 });
    obey({ kind: 'set', ms: { after: 10 } });
    expect(() => until('never')).toThrowError(/event thread, task \d+: failure in a timer/);
    until('after');
  });
});

test('the thread sleeps until a timer is due', async () => {
  await withTimers(({ obey, until }) => {
    const usage = () => obey({ kind: 'usage' }) as Usage;
    usage();
    const before = usage();
    obey({ kind: 'set', ms: { one: 400.5, two: 400.5 } });
    until('two');
    const after = usage();
    expect(after.sleeps - before.sleeps).toBeLessThan(40);
    expect(after.sleptMs - before.sleptMs).toBeGreaterThan(200);
  });
});

test('100,000 timers, half of them cancelled, all fire, and the thread answers calls meanwhile', async () => {
  await withTimers(({ obey, until }) => {
    obey({ kind: 'flood', count: 100_000, ms: 5 });
    expect(obey({ kind: 'usage' })).toHaveProperty('sleeps');
    until('flood');
  });
});

test.each(['setTimeout', 'setInterval', 'setImmediate'] as const)(
  '%s throws in the event thread, and names context.after',
  async (timer) => {
    await withTimers(({ obey }) => {
      expect(() => obey({ kind: 'javascript', timer })).toThrowError(
        new RegExp(`${timer}: JavaScript timers do not run in the event thread: use context.after`),
      );
    });
  },
);
