import { errno } from './errno.js';
import { SysError } from './error.js';
import { begin, type StartedWorker, type WorkerProgram } from './thread-ahead.js';
import { workerUrl } from './worker-url.js';

/** Starts a thread of this process. @param module as of {@link workerUrl} @throws SysError EAGAIN if the host refuses another one */
export function startWorker({
  module,
  ...program
}: Omit<WorkerProgram, 'module'> & { readonly module: string }): StartedWorker {
  try {
    return begin({ module: workerUrl(module), ...program });
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'ERR_WORKER_INIT_FAILED') throw cause;
    const hint = 'the host allows no more threads: see `ulimit -u`, and pids.max of the control group';
    throw new SysError({ call: 'pthread_create', target: program.name, errno: errno.EAGAIN, hint, cause });
  }
}
