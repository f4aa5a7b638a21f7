import { type MessagePort, receiveMessageOnPort, type Transferable } from 'node:worker_threads';
import { signalEventfd } from './eventfd.js';
import { isExiting, kickAtExit } from './exit-board.js';
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
 *   Int32 [6] number of senders that are using this address, or one of those that follow
 *   Float64 [4] to [10] (byte 32) the same for further vCPUs that this thread runs in turn
 */
export type InboxControl = SharedArrayBuffer;

const SENT = 0;
const RUNNING_TID = 1;
const EVENTFD = 2;
const STOP = 3;
const RINGING = 6;
const IMMEDIATE_EXIT_ADDRESSES = [2, 4, 5, 6, 7, 8, 9, 10] as const;
const CONTROL_BYTES = 88;
/** Senders do not notify: it would cost each message a call, for microseconds at the end of a run. */
const RINGING_POLL_MS = 1;

export function createInboxControl(eventfd = -1): InboxControl {
  const control = new SharedArrayBuffer(CONTROL_BYTES);
  new Int32Array(control)[EVENTFD] = eventfd;
  return control;
}

/** The receiving end, used by the thread that owns the inbox. */
export class Inbox {
  readonly control: InboxControl;
  readonly words: Int32Array;
  readonly #address: Float64Array;
  /** What this thread has entered, by address, and its place on the exit board. */
  readonly #entered = new Map<number, Disposable>();
  readonly #ports: { readonly port: MessagePort; readonly deliver: (message: unknown) => void }[] = [];
  #seen = 0;

  constructor(control: InboxControl) {
    this.control = control;
    this.words = new Int32Array(control);
    this.#address = new Float64Array(control);
  }

  /** Delivers the port's messages until disposed. */
  addPort(port: MessagePort, deliver: (message: unknown) => void): Disposable {
    const entry = { port, deliver };
    this.#ports.push(entry);
    return {
      [Symbol.dispose]: () => {
        const at = this.#ports.indexOf(entry);
        if (at >= 0) this.#ports.splice(at, 1);
      },
    };
  }

  /**
   * Announces that this thread is about to enter KVM_RUN. It may do so for several vCPUs: a sender cannot know which of
   * them runs, and kicks out each.
   * @param immediateExit address of kvm_run.immediate_exit, which stays mapped until {@link leaveRun} returns
   * @throws RangeError for the ninth vCPU
   */
  enterRun(immediateExit: number): void {
    if (this.#entered.has(immediateExit)) return;
    if (immediateExit !== 0) {
      const free = IMMEDIATE_EXIT_ADDRESSES.find((i) => this.#address[i] === 0);
      if (free === undefined) throw new RangeError('a thread is interrupted in 8 vCPUs at most');
      this.#address[free] = immediateExit;
    }
    this.#entered.set(immediateExit, kickAtExit(immediateExit));
    Atomics.store(this.words, RUNNING_TID, libc.gettid());
  }

  /** Announces that this thread is about to block in other calls, which a kick interrupts. */
  enterCalls(): void {
    this.enterRun(0);
  }

  /**
   * Balances {@link enterRun} and {@link enterCalls}. Returns once no sender uses the address, so no kick comes for it
   * and its byte is not written after this.
   * @param immediateExit as passed to {@link enterRun}; all of them if absent
   */
  leaveRun(immediateExit?: number): void {
    for (const address of immediateExit === undefined ? [...this.#entered.keys()] : [immediateExit]) {
      this.#entered.get(address)?.[Symbol.dispose]();
      this.#entered.delete(address);
      for (const i of IMMEDIATE_EXIT_ADDRESSES)
        if (address !== 0 && this.#address[i] === address) this.#address[i] = 0;
    }
    if (this.#entered.size === 0) Atomics.store(this.words, RUNNING_TID, 0);
    for (;;) {
      const ringing = Atomics.add(this.words, RINGING, 0); // not load: the addresses must be cleared before
      if (ringing === 0) break;
      Atomics.wait(this.words, RINGING, ringing, RINGING_POLL_MS);
    }
  }

  /** Whether this thread shall end: its owner asked, or the process exits. */
  get isStopping(): boolean {
    return Atomics.load(this.words, STOP) === 1 || isExiting();
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
    for (const { port, deliver } of [...this.#ports]) {
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
  /** The byte at the address seen last, of each place of an address. */
  readonly #bytes = new Map<number, { readonly address: number; readonly byte: Uint8Array }>();

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
    for (const i of IMMEDIATE_EXIT_ADDRESSES) {
      const address = this.#address[i] as number;
      // Order matters: the byte prevents a KVM_RUN entry for which the signal would arrive too early.
      if (address !== 0) Atomics.store(this.#byteAt(i, address), 0, 1);
    }
    kickThread(tid);
  }

  #byteAt(place: number, address: number): Uint8Array {
    const known = this.#bytes.get(place);
    if (known?.address === address) return known.byte;
    const byte = new Uint8Array(libc.memoryAt(address, 1));
    this.#bytes.set(place, { address, byte });
    return byte;
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
