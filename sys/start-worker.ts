import module from 'node:module';
import { dirname } from 'node:path';
import { type Transferable, Worker } from 'node:worker_threads';
import { errno } from './errno.js';
import { SysError } from './error.js';
import { workerUrl } from './worker-url.js';

/** A thread's program, and what it starts with. */
export interface WorkerProgram {
  /** @see workerUrl */
  readonly module: string;
  /** Name of the thread. */
  readonly name: string;
  readonly data: unknown;
  readonly transfer?: readonly Transferable[];
}

/** Node's compile cache is a thread's own, unless the environment names its folder; it is named without Node's version. */
function environment(): NodeJS.ProcessEnv {
  const { getCompileCacheDir } = module as { getCompileCacheDir?: () => string | undefined }; // Node 22.8
  const folder = getCompileCacheDir?.();
  return folder === undefined ? process.env : { ...process.env, NODE_COMPILE_CACHE: dirname(folder) };
}

/** Starts a thread of this process. @throws SysError EAGAIN if the host refuses another one */
export function startWorker({ module, name, data, transfer = [] }: WorkerProgram): Worker {
  try {
    return new Worker(workerUrl(module), {
      name,
      workerData: data,
      transferList: [...transfer],
      trackUnmanagedFds: false,
      env: environment(),
    });
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'ERR_WORKER_INIT_FAILED') throw cause;
    const hint = 'the host allows no more threads: see `ulimit -u`, and pids.max of the control group';
    throw new SysError({ call: 'pthread_create', target: name, errno: errno.EAGAIN, hint, cause });
  }
}

/**
 * Settles when the thread has ended: its error comes earlier.
 * @param name of the thread, which begins the error's message
 * @returns rejects with that error
 */
export function workerEnd(worker: Worker, name: string): Promise<void> {
  return new Promise((resolve, reject) => {
    let settle = resolve;
    worker.once('error', (error: unknown) => {
      const thrown = error instanceof Error ? error : new Error(String(error));
      thrown.message = `thread ${name}: ${thrown.message}`;
      settle = () => reject(thrown);
    });
    worker.once('exit', () => settle());
  });
}
