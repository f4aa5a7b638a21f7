// A worker imports the package first, and its error has no listener.
import { isMainThread, Worker } from 'node:worker_threads';

if (isMainThread) new Worker(new URL(import.meta.url));
else await import('tsvisor/vfio');
