/** Starts a scripted server for tests of the client. @see scripted-server-thread.ts */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import type { Fd } from '../../../sys/fd.js';
import { workerUrl } from '../../../sys/worker-url.js';
import type { Line } from './peers/session.js';
import type { ScriptedServerData } from './scripted-server-thread.js';

/**
 * Runs `use` against a server that plays these lines, and nothing else.
 * @param fds what the server sends, by name
 * @throws Error where the client said something else than the session has, or left early; else what `use` throws
 */
export async function playServer(
  lines: readonly Line[],
  fds: Readonly<Record<string, Fd>>,
  use: (address: string) => void,
): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'vfio-user-'));
  const control = new SharedArrayBuffer(4);
  const path = join(folder, 'peer.sock');
  const numbers = Object.fromEntries(Object.entries(fds).map(([name, { number }]) => [name, number]));
  const workerData: ScriptedServerData = { path, control, lines, fds: numbers };
  const url = workerUrl('vfio/user/testing/scripted-server-thread.js');
  const worker = new Worker(url, { workerData, trackUnmanagedFds: false });
  const told: unknown[] = [];
  const ended = new Promise<void>((resolve, reject) => {
    worker.on('message', (message) => told.push(message));
    worker.once('error', reject);
    worker.once('exit', () => resolve());
  });
  await Promise.race([new Promise((resolve) => worker.once('message', resolve)), ended]);
  let failure: unknown;
  try {
    use(`vfio-user:${path}`);
  } catch (error) {
    failure = error;
  }
  Atomics.store(new Int32Array(control), 0, 1);
  Atomics.notify(new Int32Array(control), 0);
  await ended;
  rmSync(folder, { recursive: true, force: true });
  const { problem } = told.at(-1) as { problem: string | undefined };
  // What the server saw comes first: what the client threw is mostly its consequence.
  if (problem !== undefined) throw new Error(`the session went another way: ${problem}`, { cause: failure });
  if (failure !== undefined) throw failure;
}
