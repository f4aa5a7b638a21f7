import { type MessagePort, receiveMessageOnPort, type Transferable } from 'node:worker_threads';
import { signalEventfd } from './eventfd.js';
import { kickThread } from './kick.js';
import * as libc from './libc.js';

/**
 * Message delivery to a thread that never returns to its event loop: the thread polls its ports between two blocking
 * calls, and a sender wakes it from any of them.
 *
 *   Int32 [0] number of messages sent; the receiver sleeps on it with Atomics.wait
 *         [1] the thread's id while it is in KVM_RUN and needs a kick, else 0
 *         [2] eventfd that interrupts the thread's epoll_wait, or -1
 *         [3] 1 asks the thread to end
 *         [6] senders that are kicking: until that is 0 again, kvm_run stays mapped
 *   Float64 [2] (byte 16) address of the vCPU's immediate_exit byte
 */
export type InboxControl = SharedArrayBuffer;

const SENT = 0;
const RUNNING_TID = 1;
const EVENTFD = 2;
const STOP = 3;
const IMMEDIATE_EXIT_ADDRESS = 2;
const KICKING = 6;
const WORDS = 7;
const CONTROL_BYTES = 32;

export function createInboxControl(eventfd = -1): InboxControl {
  const control = new SharedArrayBuffer(CONTROL_BYTES);
  new Int32Array(control)[EVENTFD] = eventfd;
  return control;
}

/** The receiving end, used by the thread that owns the inbox. */
export class Inbox {
  readonly words: Int32Array;
  readonly #address: Float64Array;
  readonly #ports: { readonly port: MessagePort; readonly deliver: (message: unknown) => void }[] = [];
  #seen = 0;

  constructor(control: InboxControl) {
    this.words = new Int32Array(control, 0, WORDS);
    this.#address = new Float64Array(control, 0, 3);
  }

  addPort(port: MessagePort, deliver: (message: unknown) => void): void {
    this.#ports.push({ port, deliver });
  }

  /** Announces that this thread is about to enter KVM_RUN. @param immediateExit address of kvm_run.immediate_exit */
  enterRun(immediateExit: number): void {
    this.#address[IMMEDIATE_EXIT_ADDRESS] = immediateExit;
    Atomics.store(this.words, RUNNING_TID, libc.gettid());
  }

  /** Balances {@link enterRun}: no kicks after this, and kvm_run may be unmapped. */
  leaveRun(): void {
    Atomics.store(this.words, RUNNING_TID, 0);
    while (Atomics.load(this.words, KICKING) > 0); // a system call long
  }

  get isStopping(): boolean {
    return Atomics.load(this.words, STOP) === 1;
  }

  /** Whether {@link drain} may have messages to deliver. Takes nanoseconds: call it after each exit. */
  get hasNews(): boolean {
    return Atomics.load(this.words, SENT) !== this.#seen;
  }

  /**
   * Delivers all pending messages; each sender's are in order.
   * @throws what a delivery throws; the messages after it are still news
   */
  drain(): void {
    const sent = Atomics.load(this.words, SENT);
    this.#seen = sent - 1;
    for (const { port, deliver } of this.#ports) {
      for (let got = receiveMessageOnPort(port); got !== undefined; got = receiveMessageOnPort(port)) {
        deliver(got.message);
      }
    }
    this.#seen = sent;
  }

  /** Blocks until a sender wakes the thread, or the timeout in milliseconds expires. */
  wait(timeoutMs?: number): void {
    Atomics.wait(this.words, SENT, this.#seen, timeoutMs);
  }
}

/** Wakes the inbox's thread. Each waking thread has its own. */
export class InboxBell {
  readonly #words: Int32Array;
  readonly #address: Float64Array;
  #immediateExit: { readonly address: number; readonly byte: Uint8Array } | undefined;

  constructor(control: InboxControl) {
    this.#words = new Int32Array(control, 0, WORDS);
    this.#address = new Float64Array(control, 0, 3);
  }

  ring(): void {
    Atomics.add(this.#words, SENT, 1);
    Atomics.notify(this.#words, SENT);
    const eventfd = Atomics.load(this.#words, EVENTFD);
    if (eventfd >= 0) signalEventfd(eventfd);
    if (Atomics.load(this.#words, RUNNING_TID) === 0) return;
    Atomics.add(this.#words, KICKING, 1);
    this.#kick(Atomics.load(this.#words, RUNNING_TID));
    Atomics.sub(this.#words, KICKING, 1);
  }

  #kick(tid: number): void {
    if (tid === 0) return; // it left meanwhile
    // Order matters: the byte prevents a KVM_RUN entry for which the signal would arrive too early.
    Atomics.store(this.#immediateExitAt(this.#address[IMMEDIATE_EXIT_ADDRESS] as number), 0, 1);
    kickThread(tid);
  }

  /** The thread may run another vCPU than last time. */
  #immediateExitAt(address: number): Uint8Array {
    if (this.#immediateExit?.address !== address)
      this.#immediateExit = { address, byte: new Uint8Array(libc.memoryAt(address, 1)) };
    return this.#immediateExit.byte;
  }

  /** Asks the thread to end, and wakes it. */
  stop(): void {
    Atomics.store(this.#words, STOP, 1);
    this.ring();
  }
}

/** Sends messages to an inbox. Each sending thread has its own. */
export class InboxSender {
  readonly #port: MessagePort;
  readonly #bell: InboxBell;

  constructor(port: MessagePort, control: InboxControl) {
    this.#port = port;
    this.#bell = new InboxBell(control);
  }

  send(message: unknown, transfer: readonly Transferable[] = []): void {
    this.#port.postMessage(message, [...transfer]);
    this.#bell.ring();
  }
}
