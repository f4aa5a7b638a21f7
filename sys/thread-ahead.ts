/**
 * Threads that are started before it is known what for: their Node boots and compiles their files while the main thread
 * loads its own. The first line of these files that runs is here, in both: it waits for the thread's data. So the rule that
 * the main thread loads native libraries first holds for such a thread, too.
 *
 * The program loads this file before all others (bin.ts), so it imports none of them.
 */
import module from 'node:module';
import { dirname } from 'node:path';
import {
  getEnvironmentData,
  isMainThread,
  parentPort,
  receiveMessageOnPort,
  setEnvironmentData,
  type Transferable,
  Worker,
  workerData,
} from 'node:worker_threads';

/** A thread's program, and what it starts with. */
export interface WorkerProgram {
  readonly module: URL;
  /** Name of the thread. */
  readonly name: string;
  readonly data: unknown;
  readonly transfer?: readonly Transferable[];
}

export interface StartedWorker {
  readonly worker: Worker;
  /** Settles when the thread has ended: rejects with its error, whose message begins with its name. */
  readonly ended: Promise<void>;
}

/** Node's compile cache is a thread's own, unless the environment names its folder; it is named without Node's version. */
function environment(): NodeJS.ProcessEnv {
  const { getCompileCacheDir } = module as { getCompileCacheDir?: () => string | undefined }; // Node 22.8
  const folder = getCompileCacheDir?.();
  return folder === undefined ? process.env : { ...process.env, NODE_COMPILE_CACHE: dirname(folder) };
}

function create({ module, name, data, transfer = [] }: WorkerProgram): StartedWorker {
  const worker = new Worker(module, {
    name,
    workerData: data,
    transferList: [...transfer],
    trackUnmanagedFds: false,
    env: environment(),
  });
  return { worker, ended: endOf(worker, name) };
}

function endOf(worker: Worker, name: string): Promise<void> {
  const ended = new Promise<void>((resolve, reject) => {
    let settle = resolve;
    worker.once('error', (error: unknown) => {
      const thrown = error instanceof Error ? error : new Error(String(error));
      thrown.message = `thread ${name}: ${thrown.message}`;
      settle = () => reject(thrown);
    });
    worker.once('exit', () => settle());
  });
  ended.catch(() => {}); // whoever uses the thread hears of it
  return ended;
}

/** Names the word, in a thread's `workerData`, that changes when its data are sent. */
const WORD = 'tsvisor.ahead';

/** Sent to a thread that was started ahead. */
interface Start {
  readonly data: unknown;
  /** What the process's threads know that were started by now. */
  readonly processData: ReadonlyMap<string, unknown>;
}

/** By the address of their program. */
const waiting = new Map<string, StartedWorker & { readonly word: Int32Array }>();

/**
 * Starts a thread whose data follow: the next {@link begin} of this module takes it. Until then it keeps nothing alive. Main
 * thread only. Never throws: if the host refuses the thread, `begin` asks again.
 */
export function startAhead({ module, name }: Pick<WorkerProgram, 'module' | 'name'>): void {
  const word = new Int32Array(new SharedArrayBuffer(4));
  try {
    const started = create({ module, name, data: { [WORD]: word } });
    started.worker.unref();
    waiting.set(module.href, { ...started, word });
  } catch {
    // As said.
  }
}

/** Starts a thread, or sends its data to one that was started ahead. @throws as Node's `Worker` */
export function begin(program: WorkerProgram): StartedWorker {
  const ahead = waiting.get(program.module.href);
  if (ahead === undefined) return create(program);
  waiting.delete(program.module.href);
  const { worker, ended, word } = ahead;
  worker.ref();
  worker.postMessage({ data: program.data, processData } satisfies Start, [...(program.transfer ?? [])]);
  Atomics.store(word, 0, 1);
  Atomics.notify(word, 0);
  return { worker, ended };
}

const processData = new Map<string, unknown>();

/** Sets what threads that start from now on get from {@link getProcessData}; whichever copy of the package they use. */
export function setProcessData(key: string, value: unknown): void {
  processData.set(key, value);
  setEnvironmentData(key, value as never);
}

export const getProcessData = (key: string): unknown => getEnvironmentData(key);

/** What this thread was started with. */
export const threadData: unknown = awaitData();

function awaitData(): unknown {
  const word = (workerData as Record<string, unknown> | null | undefined)?.[WORD];
  if (isMainThread || !(word instanceof Int32Array)) return workerData;
  Atomics.wait(word, 0, 0);
  const start = receiveMessageOnPort(parentPort as NonNullable<typeof parentPort>)?.message as Start;
  for (const [key, value] of start.processData) setProcessData(key, value);
  return start.data;
}
