// As an embedder meets it who knows of nothing: nobody listens for the worker's error.
import { isMainThread, Worker } from 'node:worker_threads';

if (isMainThread) new Worker(new URL(import.meta.url));
else await import('tsvisor/vfio');
