/**
 * One way to call KVM_RUN, on this Node: whether it is there, errno, signals, and the ends of threads and of the process.
 * `doors.mjs node:ffi|koffi|ffi-rs [kvm]`; it ends with status 0 if all is well, or if the door is rightly absent.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readlinkSync } from 'node:fs';
import { createRequire, isBuiltin } from 'node:module';
import { basename } from 'node:path';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { PolledEventThread } from 'tsvisor/assign';
import {
  gpa,
  installKickSignal,
  Kvm,
  kickThread,
  longModeSregs,
  longModeTables,
  Mapping,
  MemorySlots,
  openDoor,
  Scope,
  VcpuRunner,
} from 'tsvisor/kvm';

const [EINTR, EBADF, ENXIO, EFAULT, EINVAL] = [4, 9, 6, 14, 22];
const KVM_RUN = 0xae80;
const KVM_INTERRUPT = 0x4004ae86;
const [CODE, TABLES, BYTES] = [0x10_0000, 0x1000, 2 << 20];
const KICKS = 300;
const CALLS = 20_000;
const PATIENCE_MS = 20_000;

const equal = (what, got, wanted) => {
  if (got !== wanted) throw new Error(`${what}: ${got} instead of ${wanted}`);
};

/** A VM whose guest does nothing but these instructions. */
function createGuest(scope, code, { irqchip = false } = {}) {
  const vm = scope.own(scope.own(Kvm.open()).createVm());
  if (irqchip) vm.createIrqchip();
  const ram = scope.own(Mapping.anonymous(BYTES));
  scope.own(new MemorySlots(vm).add(gpa(0n), ram.hva, BigInt(BYTES)));
  const tables = longModeTables(BigInt(TABLES));
  ram.view.slice(TABLES, tables.length).set(tables);
  ram.view.slice(CODE, code.length).set(code);
  const vcpu = scope.own(vm.createVcpu(0));
  vcpu.setSregs({ ...vcpu.getSregs(), ...longModeSregs(BigInt(TABLES)) });
  vcpu.setRegs({ rip: BigInt(CODE), rflags: 2n });
  return { vcpu, ram };
}
const LOOP = [0xeb, 0xfe]; // jmp to itself

/** The error of a call is its own, though the collector runs and other calls succeed in between. */
function checkErrno(door) {
  const fails = door.prepare(-1, KVM_RUN, 0);
  const garbage = [];
  for (let i = 0; i < CALLS; i++) {
    if (i % 8 === 0) garbage[(i / 8) % 64] = new Uint8Array(4096);
    const result = fails();
    if (result !== -EBADF) throw new Error(`call ${i}: ${result} instead of EBADF`);
  }
}

/** Errors of KVM, one of which says that the address of a structure came through. */
function checkKvmErrno(scope, door) {
  const { vcpu, ram } = createGuest(scope, LOOP, { irqchip: true });
  const call = (request, value) => door.prepare(vcpu.fd.number, request, value)();
  equal('KVM_RUN with an argument', call(KVM_RUN, 1), -EINVAL);
  equal('KVM_INTERRUPT at address 0', call(KVM_INTERRUPT, 0), -EFAULT);
  equal('KVM_INTERRUPT beside an irqchip', call(KVM_INTERRUPT, Number(ram.hva)), -ENXIO);
  vcpu.page.setImmediateExit(true);
  equal('KVM_RUN with immediate_exit', call(KVM_RUN, 0), -EINTR);
}

const ended = (worker) =>
  new Promise((resolve, reject) => {
    worker.once('error', reject);
    worker.once('exit', resolve);
  });

/** Starts a thread of this program. Resolves once it has begun, with its thread id. */
async function start(task, data) {
  const worker = new Worker(new URL(import.meta.url), { workerData: { task, ...data } });
  const end = ended(worker);
  end.catch(() => {});
  const tid = await Promise.race([
    new Promise((resolve) => worker.once('message', resolve)),
    end.then((code) => Promise.reject(new Error(`the thread ended with ${code}`))),
  ]);
  return { worker, end, tid };
}

/** A guest that never exits is interrupted by each kick, and its thread ends when it is asked to. */
async function checkKicks(scope, name) {
  installKickSignal();
  const { vcpu } = createGuest(scope, LOOP);
  const words = new Int32Array(new SharedArrayBuffer(8)); // interruptions; 1 to end
  const { handle } = vcpu;
  const { end, tid } = await start('run', { name, handle, words });
  for (let i = 0; i < KICKS; i++) {
    const before = Atomics.load(words, 0);
    vcpu.page.setImmediateExit(true);
    kickThread(tid);
    if (before === Atomics.load(words, 0)) Atomics.wait(words, 0, before, PATIENCE_MS);
    if (before === Atomics.load(words, 0)) throw new Error(`kick ${i} was lost`);
  }
  Atomics.store(words, 1, 1);
  vcpu.page.setImmediateExit(true);
  kickThread(tid);
  equal('status of the thread', await end, 0);

  // terminate() waits until KVM_RUN returns.
  const other = await start('run', { name, handle, words: new Int32Array(new SharedArrayBuffer(8)) });
  const terminated = other.worker.terminate();
  vcpu.page.setImmediateExit(true);
  kickThread(other.tid);
  equal('status of the terminated thread', await terminated, 1);
}

/** Threads end while V8 compiles the calls that they have made, in another thread. */
async function checkThreadEnds(name) {
  for (let round = 0; round < 6; round++) {
    const kinds = ['return', 'exit', 'exit', 'terminate'];
    const threads = await Promise.all(kinds.map((how) => start('calls', { name, how, round })));
    for (const [i, { worker, end }] of threads.entries()) {
      if (kinds[i] === 'terminate') await worker.terminate();
      await end;
    }
  }
}

/** The process exits while its threads load the library: it waits for them. */
async function checkExits(name) {
  for (let i = 0; i < 20; i++) {
    const child = spawn(process.execPath, [process.argv[1], name, 'exit', i % 10], { stdio: 'inherit' });
    const [status, signal] = await once(child, 'exit');
    equal(`end of a process that exits after ${i % 10} ms`, signal ?? status, 3);
  }
}

async function exitAfter(name, ms) {
  await start('load', { name });
  await new Promise((resolve) => setTimeout(resolve, ms));
  process.exit(3);
}

/** The process ends while a thread is in KVM_RUN. */
async function leave(name) {
  const { end } = await start('hypervisor', { name });
  end.then(() => process.exit(1));
  await new Promise((resolve) => setTimeout(resolve, 100)); // it is in KVM_RUN; if it is not, this tests less
  process.exit(0);
}

async function main([name, kvm, ms]) {
  if (kvm === 'exit') return exitAfter(name, ms);
  const isThere = {
    'node:ffi': () => isBuiltin('node:ffi'), // without loading it, which prints a warning
    koffi: () => {
      try {
        return createRequire(import.meta.url).resolve('koffi') !== '';
      } catch {
        return false;
      }
    },
    'ffi-rs': () => true,
  }[name]();
  if (!isThere) {
    try {
      openDoor(name);
    } catch (error) {
      equal('error of an absent door', error.code, name === 'koffi' ? 'ENOENT' : 'ENOSYS');
      console.log(`${name} is absent`);
      return;
    }
    throw new Error(`${name} is absent, and opened`);
  }
  const door = openDoor(name);
  equal('name', door.name, name);
  checkErrno(door);
  await checkThreadEnds(name);
  await checkExits(name);
  if (kvm === 'kvm') {
    const scope = new Scope(); // not `using`: Node 20 does not know it
    checkKvmErrno(scope, door);
    await checkKicks(scope, name);
    scope[Symbol.dispose]();
  }
  console.log(`${name} works`);
  if (kvm === 'kvm') await leave(name);
}

const tasks = {
  load({ name }) {
    parentPort.postMessage(0);
    openDoor(name);
  },
  run({ name, handle, words }) {
    const runner = VcpuRunner.of(handle, name);
    parentPort.postMessage(Number(basename(readlinkSync('/proc/thread-self'))));
    while (Atomics.load(words, 1) === 0) {
      equal('exit', runner.run().kind, 'interrupted');
      runner.page.setImmediateExit(false);
      Atomics.add(words, 0, 1);
      Atomics.notify(words, 0);
    }
  },
  calls({ name, how, round }) {
    const call = openDoor(name).prepare(-1, KVM_RUN, 0);
    parentPort.postMessage(0); // after openDoor, in which a thread must not be terminated
    for (let i = 0; how === 'terminate' || i < 1000 * (round + 4); i++) equal('call', call(), -EBADF);
    if (how === 'exit') process.exit(0);
  },
  async hypervisor({ name }) {
    const events = await PolledEventThread.start();
    const { vcpu } = createGuest(new Scope(), LOOP);
    const runner = VcpuRunner.of(vcpu.handle, name);
    events.interruptRun(vcpu);
    parentPort.postMessage(0);
    for (;;) {
      events.poll();
      if (runner.run().kind === 'interrupted') runner.page.setImmediateExit(false);
    }
  },
};

if (isMainThread) await main(process.argv.slice(2));
else await tasks[workerData.task](workerData);
