import { once } from 'node:events';
import type { Worker } from 'node:worker_threads';
import { expect, onTestFinished, test } from 'vitest';
import { startEventThread } from './event-thread.js';
import { createInboxControl } from './inbox.js';
import { begin, startAhead } from './thread-ahead.js';
import { workerUrl } from './worker-url.js';

const EVENT_LOOP = workerUrl('sys/event-loop.js');
const NOWHERE = workerUrl('sys/nowhere.js');

/** The threads that this process starts from now on. */
function startedThreads(): readonly Worker[] {
  const started: Worker[] = [];
  const add = (worker: Worker) => started.push(worker);
  process.on('worker', add);
  onTestFinished(() => void process.off('worker', add));
  return started;
}

test('a thread that was started ahead waits for its data, which are the next of its program', async () => {
  const started = startedThreads();
  startAhead({ module: EVENT_LOOP, name: 'ahead' });
  await new Promise(setImmediate);
  await once(started[0] as Worker, 'online');
  const [first, second] = [startEventThread(createInboxControl()), startEventThread(createInboxControl())];
  for (const thread of [first, second]) thread.stop();
  await Promise.all([first.ended, second.ended]);
  expect(started).toEqual([first.worker, second.worker]);
});

test('the error of a thread that fails before it is needed is not lost', async () => {
  const started = startedThreads();
  startAhead({ module: NOWHERE, name: 'ahead' });
  await new Promise(setImmediate);
  await new Promise((resolve) => started[0]?.once('exit', resolve));
  const { ended } = begin({ module: NOWHERE, name: 'later', data: undefined });
  await expect(ended).rejects.toThrow(/^thread ahead: Cannot find module .*nowhere\.js/);
});
