/** Starts a server for tests of the client. @see peer-thread.ts */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import type { EventThread } from '../../../sys/event-task.js';
import { EventThreadClient, startEventThread } from '../../../sys/event-thread.js';
import { createInboxControl, Inbox } from '../../../sys/inbox.js';
import { workerUrl } from '../../../sys/worker-url.js';
import type { PeerData } from './peer-thread.js';

export interface Peer extends AsyncDisposable {
  readonly path: string;
  /** Answers that have been passed on, and how many of them were changed. */
  counts(): { readonly messages: number; readonly changed: number };
}

export async function startPeer(options: Pick<PeerData, 'seed' | 'oneIn'> = {}): Promise<Peer> {
  const folder = mkdtempSync(join(tmpdir(), 'vfio-user-'));
  const path = join(folder, 'peer.sock');
  const control = new SharedArrayBuffer(16);
  const words = new Int32Array(control);
  const workerData: PeerData = { path, control, ...options };
  const worker = new Worker(workerUrl('vfio/user/testing/peer-thread.js'), {
    workerData,
    trackUnmanagedFds: false,
  });
  const ended = new Promise<void>((resolve, reject) => {
    worker.once('error', reject);
    worker.once('exit', () => resolve());
  });
  ended.catch(() => {}); // told when it is disposed
  await Promise.race([new Promise((resolve) => worker.once('message', resolve)), ended]);
  return {
    path,
    counts: () => ({ messages: Atomics.load(words, 1), changed: Atomics.load(words, 2) }),
    async [Symbol.asyncDispose]() {
      Atomics.store(words, 0, 1);
      await ended;
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** For a client that nobody sends anything unasked. */
export const noEvents: EventThread = {
  run: () => ({ post: () => {}, call: () => undefined, receive: undefined, [Symbol.dispose]: () => {} }),
};

/** For a client whose server has a twin socket. */
export async function withEventThread(use: (thread: EventThread) => Promise<void> | void): Promise<void> {
  const control = createInboxControl();
  const thread = startEventThread(control);
  try {
    await use(new EventThreadClient(thread.link, new Inbox(control)));
  } finally {
    thread.stop();
    await thread.ended;
  }
}
