/**
 * Who has to be interrupted when the process exits. Node waits for each worker to return from what it is in, and the
 * `exit` event of a worker comes only after that: so threads in KVM_RUN or epoll_wait enter themselves here, in memory
 * that all threads share, and the main thread's `exit` event kicks them. A thread then parks at its next
 * {@link parkIfExiting}, until Node ends it.
 *
 *   Int32 [0] 1 once the main thread exits
 *   Int32 [1] number of threads in {@link uncut}
 *   from byte 16, slots of 16 bytes:
 *     Int32   state: FREE, BUSY while its owner or the main thread changes it, TAKEN
 *     Int32   the thread's id; or -1 - fd of an eventfd that wakes it
 *     Float64 address of a byte that is set before the kick; 0 if there is none
 */
import { isMainThread } from 'node:worker_threads';
import { signalEventfd } from './eventfd.js';
import { kickThread } from './kick.js';
import * as libc from './libc.js';
import { getProcessData, setProcessData } from './thread-ahead.js';

/** Of the process, not of a copy of the package; the number is that of this layout. */
const KEY = 'tsvisor.exit-board.1';

const SLOTS = 1024;
const HEAD_BYTES = 16;
const SLOT_BYTES = 16;
const [EXITING, UNCUT] = [0, 1];
/** Patience with threads in {@link uncut}. */
const UNCUT_MS = 2000;
const [FREE, BUSY, TAKEN] = [0, 1, 2];

/** The main thread imports the package before others do, so that workers find the board of all. */
function findBoard(): SharedArrayBuffer {
  const found = getProcessData(KEY) as SharedArrayBuffer | undefined;
  if (found !== undefined) return found;
  const made = new SharedArrayBuffer(HEAD_BYTES + SLOTS * SLOT_BYTES);
  setProcessData(KEY, made);
  return made;
}

const board = findBoard();
const words = new Int32Array(board);
const addresses = new Float64Array(board);
const stateOf = (slot: number): number => (HEAD_BYTES + slot * SLOT_BYTES) / 4;
const addressAt = (slot: number): number => (HEAD_BYTES + slot * SLOT_BYTES) / 8 + 1;

function enter(who: number, address: number): Disposable {
  for (let slot = 0; slot < SLOTS; slot++) {
    const state = stateOf(slot);
    if (Atomics.compareExchange(words, state, FREE, BUSY) !== FREE) continue;
    words[state + 1] = who;
    addresses[addressAt(slot)] = address;
    Atomics.store(words, state, TAKEN);
    return { [Symbol.dispose]: () => leave(state) };
  }
  return { [Symbol.dispose]() {} }; // a thousand threads: the process may hang at its exit
}

/** Returns only when nobody writes to the slot's address. */
function leave(state: number): void {
  while (Atomics.compareExchange(words, state, TAKEN, FREE) === BUSY);
}

/**
 * Until disposed, this thread is kicked when the process exits. @param address of a byte to set before, which stays
 * mapped; 0 for none
 */
export const kickAtExit = (address: number): Disposable => enter(libc.gettid(), address);

/** Until disposed, this eventfd is signalled when the process exits. */
export const signalAtExit = (eventfd: number): Disposable => enter(-1 - eventfd, 0);

/** Whether the main thread exits. */
export const isExiting = (): boolean => Atomics.load(words, EXITING) === 1;

/** If the process exits: waits for Node to end this thread, which has been kicked out of a call. Never in main. */
export function parkIfExiting(): void {
  while (!isMainThread && isExiting()) Atomics.wait(words, EXITING, 1);
}

/**
 * Runs what must not be cut off when the process exits: the main thread waits for it, and this thread does nothing after it.
 * Not against `terminate()`.
 * @param work takes milliseconds
 */
export function uncut<T>(work: () => T): T {
  if (isMainThread) return work();
  Atomics.add(words, UNCUT, 1);
  try {
    if (!isExiting()) return work();
  } finally {
    Atomics.sub(words, UNCUT, 1);
    Atomics.notify(words, UNCUT);
    parkIfExiting();
  }
  return work(); // not reached: a thread that is not to begin has been parked for ever
}

function waitForUncut(): void {
  const end = performance.now() + UNCUT_MS;
  for (let count = 1; count > 0 && performance.now() < end; ) {
    count = Atomics.load(words, UNCUT);
    if (count > 0) Atomics.wait(words, UNCUT, count, end - performance.now());
  }
}

/** Wakes all threads of the board. Main thread, in its `exit` event. */
export function announceExit(): void {
  Atomics.store(words, EXITING, 1);
  for (let slot = 0; slot < SLOTS; slot++) {
    const state = stateOf(slot);
    if (Atomics.compareExchange(words, state, TAKEN, BUSY) !== TAKEN) continue;
    const who = words[state + 1] as number;
    const address = addresses[addressAt(slot)] as number;
    if (who < 0) signalEventfd(-1 - who);
    else {
      if (address !== 0) Atomics.store(new Uint8Array(libc.memoryAt(address, 1)), 0, 1);
      kickThread(who);
    }
    Atomics.store(words, state, TAKEN);
  }
  waitForUncut();
}

if (isMainThread) process.on('exit', announceExit);
