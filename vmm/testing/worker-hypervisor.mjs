/**
 * For a test: a hypervisor in a worker, whose guest makes no exit. The main thread exits with status 7 while the vCPU
 * runs; `halted` as argument: while it waits for an interrupt.
 */
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { PolledEventThread } from 'tsvisor/assign';
import { gpa, Kvm, longModeSregs, longModeTables, Mapping, MemorySlots } from 'tsvisor/kvm';

const [CODE, TABLES, BYTES] = [0x10_0000, 0x1000, 2 << 20];

if (isMainThread) {
  const worker = new Worker(new URL(import.meta.url), { workerData: process.argv[2] });
  worker.once('message', () => setTimeout(() => process.exit(7), 300));
} else {
  const events = await PolledEventThread.start();
  const vm = Kvm.open().createVm();
  vm.createIrqchip();
  const ram = Mapping.anonymous(BYTES);
  new MemorySlots(vm).add(gpa(0n), ram.hva, BigInt(BYTES));
  const tables = longModeTables(BigInt(TABLES));
  ram.view.slice(TABLES, tables.length).set(tables);
  // hlt; or: jmp to itself
  ram.view.slice(CODE, 2).set(workerData === 'halted' ? [0xf4, 0xf4] : [0xeb, 0xfe]);
  const vcpu = vm.createVcpu(0);
  vcpu.setSregs({ ...vcpu.getSregs(), ...longModeSregs(BigInt(TABLES)) });
  vcpu.setRegs({ rip: BigInt(CODE), rflags: 2n });
  events.interruptRun(vcpu);
  parentPort.postMessage('runs');
  for (;;) {
    events.poll();
    if (vcpu.run().kind === 'interrupted') vcpu.page.setImmediateExit(false);
  }
}
