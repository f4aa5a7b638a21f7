import { checked } from './fd.js';
import * as libc from './libc.js';

/** A real-time signal nobody else is likely to use; its handler does nothing, its arrival ends KVM_RUN with EINTR. */
const KICK_SIGNAL = 40;

// glibc's struct sigaction on x86-64: handler at 0, mask of 128 bytes, flags at 136, restorer at 144.
const SIGACTION_BYTES = 152;

let isInstalled = false;

/**
 * Gives the kick signal a handler, for the whole process. JavaScript cannot be a signal handler; abs() can: it takes
 * an int, returns an int and touches nothing. No SA_RESTART, or KVM_RUN would be entered again.
 */
export function installKickSignal(): void {
  if (isInstalled) return;
  const action = new BigUint64Array(SIGACTION_BYTES / 8);
  action[0] = BigInt(libc.dlsym('abs'));
  checked(libc.sigaction(KICK_SIGNAL, new Uint8Array(action.buffer)), 'sigaction', `signal ${KICK_SIGNAL}`);
  isInstalled = true;
}

/** Interrupts a thread's system call, whichever thread of this process we are in. A thread that has ended is left alone. */
export function kickThread(tid: number): void {
  libc.tgkill(process.pid, tid, KICK_SIGNAL);
}
