/** The program of a vCPU's thread, for machines with two or more vCPUs: it runs the vCPU and passes each exit on. */
import { KVM_RUN, Run } from '../kvm/uapi-vcpu.js';
import { errno } from '../sys/errno.js';
import { Inbox, InboxBell } from '../sys/inbox.js';
import { type PreparedIoctl, setThreadName } from '../sys/libc.js';
import { MemoryView } from '../sys/mapping.js';
import { openDoor } from '../sys/open-door.js';
import { threadData } from '../sys/thread-ahead.js';
import { VcpuBaton, type VcpuBatonBuffer, type VcpuNumbers } from './vcpu-baton.js';

export interface VcpuThreadData {
  readonly index: number;
  readonly baton: VcpuBatonBuffer;
  /** This thread's own inbox; only its stop word and its kick are used. */
  readonly control: SharedArrayBuffer;
  /** The machine thread's inbox, rung at each exit. */
  readonly machine: SharedArrayBuffer;
}

const IDLE_MS = 200;

function main({ index, baton: buffer, control, machine }: VcpuThreadData): void {
  setThreadName(`tsvisor-cpu${index}`);
  const inbox = new Inbox(control);
  const baton = new VcpuBaton(buffer);
  const bell = new InboxBell(machine);
  let run: PreparedIoctl | undefined;
  let immediateExit = new Uint8Array(1);

  const prepare = ({ fd, runAddress, door }: VcpuNumbers): PreparedIoctl => {
    const address = runAddress + Run.offsets.immediate_exit;
    immediateExit = new MemoryView(address, 1).slice(0, 1);
    inbox.enterRun(address);
    return openDoor(door).prepare(fd, KVM_RUN.number, 0);
  };

  while (!inbox.isStopping) {
    const vcpu = baton.take(IDLE_MS);
    if (vcpu === undefined) continue;
    if (run === undefined) {
      run = prepare(vcpu);
      if (inbox.isStopping) break; // stopped before a kick could reach this thread
    }
    // KVM then completes the access of the last exit and does not enter the guest. A kick does the same to a pause that is
    // requested after this.
    if (baton.isPauseWanted) Atomics.store(immediateExit, 0, 1);
    const result = run();
    Atomics.store(immediateExit, 0, 0);
    // A kick only makes this thread check its stop word, and whether it shall pause. EAGAIN, from a woken processor, needs
    // no handling either; the boot processor is never woken.
    if (result === -errno.EINTR ? !baton.isPauseWanted : result === -errno.EAGAIN && index !== 0) continue;
    baton.give(result);
    bell.ring();
  }
  inbox.leaveRun();
  baton.retire();
}

main(threadData as VcpuThreadData);
process.exit(0);
