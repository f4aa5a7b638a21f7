// Two copies of the package in one process: each works in the main thread, in workers, and as a machine.
import { fileURLToPath } from 'node:url';
import { isMainThread, Worker, workerData } from 'node:worker_threads';

const [other, withMachine] = isMainThread ? process.argv.slice(2) : workerData;
const copies = [await import('tsvisor/vfio'), await import(`${other}/dist/vfio/index.js`)];
if (copies[0] === copies[1] || copies[0].Fd === copies[1].Fd) throw new Error('there is one copy only');
for (const { Fd, signalEventfd, drainEventfd } of copies) {
  const bell = Fd.eventfd('bell');
  signalEventfd(bell.number);
  if (drainEventfd(bell.number) !== 1n) throw new Error('an eventfd does not work');
  bell[Symbol.dispose]();
}
if (isMainThread) {
  const data = { workerData: [other] };
  const workers = Array.from({ length: 4 }, () => new Worker(fileURLToPath(import.meta.url), data));
  const codes = await Promise.all(
    workers.map((worker) => new Promise((resolve) => worker.on('exit', resolve))),
  );
  console.log(`workers ended with ${codes}`);
  if (withMachine === 'kvm') {
    const machines = [await import('tsvisor'), await import(`${other}/dist/vmm/index.js`)].map(
      ({ VirtualMachine }) =>
        VirtualMachine.start({
          devices: [{ address: 'virtio-net', options: { net: 'responder' } }],
          cmdline: 'pings=1',
        }),
    );
    const reports = await Promise.all(machines.map((machine) => machine.finished));
    console.log(reports.map(({ outcome }) => JSON.stringify(outcome)).join(' and '));
  }
}
