import { checked } from './fd.js';
import * as libc from './libc.js';

/**
 * SIGURG. Its handler does nothing; its arrival ends KVM_RUN with EINTR. Not a real-time signal: those are queued, so a
 * kick would be lost (EAGAIN) where the user is out of RLIMIT_SIGPENDING. Not one that Node, terminals or shells use.
 */
const KICK_SIGNAL = 23;

// glibc's struct sigaction on x86-64: handler at 0, mask of 128 bytes, flags at 136, restorer at 144.
const SIGACTION_BYTES = 152;

let isInstalled = false;

/**
 * Installs a handler for the kick signal, process-wide. JavaScript cannot be a signal handler; abs() can: it takes an
 * int, returns an int and touches no memory. Without SA_RESTART, as KVM_RUN must not be restarted.
 */
export function installKickSignal(): void {
  if (isInstalled) return;
  const action = new BigUint64Array(SIGACTION_BYTES / 8);
  action[0] = BigInt(libc.dlsym('abs'));
  checked(libc.sigaction(KICK_SIGNAL, new Uint8Array(action.buffer)), 'sigaction', `signal ${KICK_SIGNAL}`);
  isInstalled = true;
}

/** Interrupts a system call of any thread in this process. Cannot fail but by ESRCH, as the thread has ended: no kick then. */
export function kickThread(tid: number): void {
  libc.tgkill(process.pid, tid, KICK_SIGNAL);
}
