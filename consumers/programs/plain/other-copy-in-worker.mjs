// The main thread uses one copy of the package and its ffi-rs; a worker uses another copy.
import { isMainThread, Worker, workerData } from 'node:worker_threads';

const other = process.argv[2];
if (isMainThread) {
  await import('tsvisor/vfio');
  new Worker(new URL(import.meta.url), { workerData: other });
} else await import(`${workerData}/dist/vfio/index.js`);
