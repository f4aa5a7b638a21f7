// Once the main thread has imported the package, workers can use it concurrently, and end in any order.
import { isMainThread, Worker, workerData } from 'node:worker_threads';

if (isMainThread) {
  const entries = process.argv.slice(2);
  for (const entry of entries) await import(entry);
  const workers = Array.from(
    { length: 8 },
    () => new Worker(new URL(import.meta.url), { workerData: entries }),
  );
  const codes = await Promise.all(
    workers.map((worker) => new Promise((resolve) => worker.on('exit', resolve))),
  );
  console.log(`workers ended with ${codes}`);
} else {
  for (const entry of workerData) await import(entry);
  const { Fd, Mapping, drainEventfd, signalEventfd } = await import('tsvisor/vfio');
  for (let i = 0; i < 200; i++) {
    const bell = Fd.eventfd('bell');
    const memory = Mapping.anonymous(4096);
    memory.view.slice(0, 4096)[i] = i;
    signalEventfd(bell.number);
    if (drainEventfd(bell.number) !== 1n || memory.view.slice(0, 4096)[i] !== i)
      throw new Error('not what was written');
    memory[Symbol.dispose]();
    bell[Symbol.dispose]();
  }
}
