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
 *   Float64 [2] (byte 16) address of the vCPU's immediate_exit byte; 0 if there is none
 *   Int32 [6] number of senders that are using this address
 */
export type InboxControl = SharedArrayBuffer;

const SENT = 0;
const RUNNING_TID = 1;
const EVENTFD = 2;
const STOP = 3;
const RINGING = 6;
const IMMEDIATE_EXIT_ADDRESS = 2;
const CONTROL_BYTES = 32;
/** Senders do not notify: it would cost each message a call, for microseconds at the end of a run. */
const RINGING_POLL_MS = 1;

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
    this.words = new Int32Array(control);
    this.#address = new Float64Array(control);
  }

  addPort(port: MessagePort, deliver: (message: unknown) => void): void {
    this.#ports.push({ port, deliver });
  }

  /**
   * Announces that this thread is about to enter KVM_RUN.
   * @param immediateExit address of kvm_run.immediate_exit, which stays mapped until {@link leaveRun} returns
   */
  enterRun(immediateExit: number): void {
    this.#address[IMMEDIATE_EXIT_ADDRESS] = immediateExit;
    Atomics.store(this.words, RUNNING_TID, libc.gettid());
  }

  /** Announces that this thread is about to block in other calls, which a kick interrupts. */
  enterCalls(): void {
    this.enterRun(0);
  }

  /**
   * Balances {@link enterRun} and {@link enterCalls}. Returns once no sender uses the address, so no kick comes and no
   * byte is written after this.
   */
  leaveRun(): void {
    Atomics.store(this.words, RUNNING_TID, 0);
    for (;;) {
      const ringing = Atomics.load(this.words, RINGING);
      if (ringing === 0) break;
      Atomics.wait(this.words, RINGING, ringing, RINGING_POLL_MS);
    }
    this.#address[IMMEDIATE_EXIT_ADDRESS] = 0;
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
  /** The byte at the address seen last. */
  #immediateExit: { readonly address: number; readonly byte: Uint8Array } | undefined;

  constructor(control: InboxControl) {
    this.#words = new Int32Array(control);
    this.#address = new Float64Array(control);
  }

  ring(): void {
    Atomics.add(this.#words, SENT, 1);
    Atomics.notify(this.#words, SENT);
    const eventfd = Atomics.load(this.#words, EVENTFD);
    if (eventfd >= 0) signalEventfd(eventfd);
    // Counted before the thread's id is read: a thread that leaves waits for those who saw it.
    Atomics.add(this.#words, RINGING, 1);
    try {
      const tid = Atomics.load(this.#words, RUNNING_TID);
      if (tid !== 0) this.#kick(tid);
    } finally {
      Atomics.sub(this.#words, RINGING, 1);
    }
  }

  #kick(tid: number): void {
    const address = this.#address[IMMEDIATE_EXIT_ADDRESS] as number;
    if (address !== 0) {
      if (this.#immediateExit?.address !== address)
        this.#immediateExit = { address, byte: new Uint8Array(libc.memoryAt(address, 1)) };
      // Order matters: the byte prevents a KVM_RUN entry for which the signal would arrive too early.
      Atomics.store(this.#immediateExit.byte, 0, 1);
    }
    kickThread(tid);
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
