/**
 * Hands a vCPU back and forth between its own thread, which runs it, and the machine thread, which answers its exits.
 * Only whoever holds the baton touches kvm_run.
 *
 *   Int32  [0] whose turn it is; 0 until the vCPU is known
 *          [1] the vCPU's fd
 *          [2] bytes of kvm_run
 *          [3] the result of the last KVM_RUN: 0 or a negative errno
 *   Float64 [2] (byte 16) address of kvm_run
 */
export type VcpuBatonBuffer = SharedArrayBuffer;

const TURN = 0;
const FD = 1;
const RUN_BYTES = 2;
const RESULT = 3;
const RUN_ADDRESS = 2;
const BATON_BYTES = 24;

const VCPU = 1;
const MACHINE = 2;
const RETIRED = 3;

/** How many looks at the turn are worth it before sleeping: a sleep costs tens of microseconds, a look nanoseconds. */
const SPINS = 2000;

export function createVcpuBaton(): VcpuBatonBuffer {
  return new SharedArrayBuffer(BATON_BYTES);
}

/** What a vCPU's thread is given to run. */
export interface VcpuNumbers {
  readonly fd: number;
  readonly runAddress: number;
  readonly runBytes: number;
}

/** One vCPU's baton, used from both sides. */
export class VcpuBaton {
  readonly #words: Int32Array;
  readonly #address: Float64Array;

  constructor(buffer: VcpuBatonBuffer) {
    this.#words = new Int32Array(buffer, 0, 4);
    this.#address = new Float64Array(buffer, 0, 3);
  }

  /** Machine's side: tells the thread which vCPU is its own, and lets it run. */
  start({ fd, runAddress, runBytes }: VcpuNumbers): void {
    this.#words[FD] = fd;
    this.#words[RUN_BYTES] = runBytes;
    this.#address[RUN_ADDRESS] = runAddress;
    this.resume();
  }

  /** Machine's side: whether an exit waits to be answered. */
  get isMachinesTurn(): boolean {
    return Atomics.load(this.#words, TURN) === MACHINE;
  }

  /** Machine's side: what KVM_RUN returned. */
  get result(): number {
    return this.#words[RESULT] as number;
  }

  /** Machine's side: the exit is answered, the vCPU runs on. */
  resume(): void {
    Atomics.store(this.#words, TURN, VCPU);
    Atomics.notify(this.#words, TURN);
  }

  /** vCPU's side: waits for its turn; undefined if there is none within the time. */
  take(timeoutMs: number): VcpuNumbers | undefined {
    for (let i = 0; i < SPINS && Atomics.load(this.#words, TURN) !== VCPU; i++);
    const turn = Atomics.load(this.#words, TURN);
    if (turn !== VCPU) Atomics.wait(this.#words, TURN, turn, timeoutMs);
    if (Atomics.load(this.#words, TURN) !== VCPU) return undefined;
    return {
      fd: this.#words[FD] as number,
      runAddress: this.#address[RUN_ADDRESS] as number,
      runBytes: this.#words[RUN_BYTES] as number,
    };
  }

  /** vCPU's side: KVM_RUN came back with something to answer. */
  give(result: number): void {
    this.#words[RESULT] = result;
    Atomics.store(this.#words, TURN, MACHINE);
  }

  /** vCPU's side: its thread ends, and touches the vCPU no more. */
  retire(): void {
    Atomics.store(this.#words, TURN, RETIRED);
    Atomics.notify(this.#words, TURN);
  }

  /** Machine's side: waits until the thread, which has been asked to stop, has retired. */
  awaitRetired(): void {
    for (;;) {
      const turn = Atomics.load(this.#words, TURN);
      if (turn === RETIRED) return;
      Atomics.wait(this.#words, TURN, turn);
    }
  }
}
