import { DOOR_NAMES, type DoorName } from '../sys/ioctl-door.js';

/**
 * Passes a vCPU between its own thread, which runs it, and the machine thread, which handles its exits. Only the holder
 * of the baton accesses kvm_run.
 *
 * Int32   [0] whose turn it is; 0 until the vCPU exists
 * [1] the vCPU's fd
 * [2] size of kvm_run in bytes
 * [3] result of the last KVM_RUN: 0 or a negative errno
 * Float64 [2] (byte 16) address of kvm_run
 * Int32   [6] 1 asks the vCPU's thread to give the baton at an instruction boundary
 * [7] what calls KVM_RUN: its place in DOOR_NAMES
 */
export type VcpuBatonBuffer = SharedArrayBuffer;

const TURN = 0;
const FD = 1;
const RUN_BYTES = 2;
const RESULT = 3;
const RUN_ADDRESS = 2;
const PAUSE = 6;
const DOOR = 7;
const BATON_BYTES = 32;

const VCPU = 1;
const MACHINE = 2;
const RETIRED = 3;

/** How often to poll before sleeping: a sleep costs tens of microseconds, a poll nanoseconds. */
const SPINS = 2000;
/** How often to look whether a vCPU has left the guest. */
const OUTSIDE_POLL_MS = 1;

export function createVcpuBaton(): VcpuBatonBuffer {
  return new SharedArrayBuffer(BATON_BYTES);
}

/** What a vCPU's thread needs to run it. */
export interface VcpuNumbers {
  readonly fd: number;
  readonly runAddress: number;
  readonly runBytes: number;
  /** What calls KVM_RUN. */
  readonly door: DoorName;
}

/** One vCPU's baton, used by both sides. */
export class VcpuBaton {
  readonly #words: Int32Array;
  readonly #address: Float64Array;

  constructor(buffer: VcpuBatonBuffer) {
    this.#words = new Int32Array(buffer, 0, 8);
    this.#address = new Float64Array(buffer, 0, 3);
  }

  /** Machine thread: assigns the vCPU to its thread and starts it. */
  start({ fd, runAddress, runBytes, door }: VcpuNumbers): void {
    this.#words[FD] = fd;
    this.#words[RUN_BYTES] = runBytes;
    this.#words[DOOR] = DOOR_NAMES.indexOf(door);
    this.#address[RUN_ADDRESS] = runAddress;
    this.resume();
  }

  /** Machine thread: whether an exit is waiting to be handled. */
  get isMachinesTurn(): boolean {
    return Atomics.load(this.#words, TURN) === MACHINE;
  }

  /** Machine thread: the result of the last KVM_RUN. */
  get result(): number {
    return this.#words[RESULT] as number;
  }

  /** Machine thread: the exit is handled; the vCPU continues. */
  resume(): void {
    Atomics.store(this.#words, TURN, VCPU);
    Atomics.notify(this.#words, TURN);
  }

  /**
   * Machine thread: asks for the baton at an instruction boundary, with -EINTR as the result, until it is `false` again. To
   * be followed by a kick.
   */
  set isPauseWanted(value: boolean) {
    Atomics.store(this.#words, PAUSE, value ? 1 : 0);
  }

  /** vCPU thread: whether the machine waits for this vCPU to stop. */
  get isPauseWanted(): boolean {
    return Atomics.load(this.#words, PAUSE) === 1;
  }

  /** vCPU thread: waits for its turn; undefined on timeout. */
  take(timeoutMs: number): VcpuNumbers | undefined {
    for (let i = 0; i < SPINS && Atomics.load(this.#words, TURN) !== VCPU; i++);
    const turn = Atomics.load(this.#words, TURN);
    if (turn !== VCPU) Atomics.wait(this.#words, TURN, turn, timeoutMs);
    if (Atomics.load(this.#words, TURN) !== VCPU) return undefined;
    return {
      fd: this.#words[FD] as number,
      runAddress: this.#address[RUN_ADDRESS] as number,
      runBytes: this.#words[RUN_BYTES] as number,
      door: DOOR_NAMES[this.#words[DOOR] as number] as DoorName,
    };
  }

  /** vCPU thread: KVM_RUN returned an exit to handle. */
  give(result: number): void {
    this.#words[RESULT] = result;
    Atomics.store(this.#words, TURN, MACHINE);
  }

  /** vCPU thread: it ends and no longer uses the vCPU. */
  retire(): void {
    Atomics.store(this.#words, TURN, RETIRED);
    Atomics.notify(this.#words, TURN);
  }

  /** Machine thread: waits until the vCPU's thread, which has been asked for the baton, has left KVM_RUN. */
  awaitOutside(): void {
    for (let i = 0; i < SPINS && Atomics.load(this.#words, TURN) === VCPU; i++);
    // The vCPU's thread does not notify: it would cost each exit a call.
    while (Atomics.load(this.#words, TURN) === VCPU) Atomics.wait(this.#words, TURN, VCPU, OUTSIDE_POLL_MS);
  }

  /** Machine thread: waits until the vCPU thread, which has been asked to stop, has retired. */
  awaitRetired(): void {
    for (;;) {
      const turn = Atomics.load(this.#words, TURN);
      if (turn === RETIRED) return;
      Atomics.wait(this.#words, TURN, turn);
    }
  }
}
