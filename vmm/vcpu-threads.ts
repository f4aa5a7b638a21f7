import type { Vcpu } from '../kvm/vcpu.js';
import { errno } from '../sys/errno.js';
import { InboxBell } from '../sys/inbox.js';
import type { DoorName } from '../sys/ioctl-door.js';
import { disposable } from '../sys/scope.js';
import type { VcpuThreadLink } from './protocol.js';
import { VcpuBaton } from './vcpu-baton.js';

/** What KVM_RUN returns if a kick or immediate_exit ends it: no access is under way then. */
const INTERRUPTED = -errno.EINTR;

interface RunningVcpu {
  readonly vcpu: Vcpu;
  readonly baton: VcpuBaton;
  readonly bell: InboxBell;
  /** It has stopped at an instruction boundary, and waits for the machine to resume it. */
  isParked: boolean;
}

/** The vCPUs of a machine with two or more, each of which runs in a thread of its own. Machine thread only. */
export class VcpuThreads {
  readonly #running: readonly RunningVcpu[];
  #isPausing = false;
  #holds = 0;

  /** Starts them. @param door calls KVM_RUN @param isPausing none enters the guest yet */
  constructor(vcpus: readonly Vcpu[], links: readonly VcpuThreadLink[], door: DoorName, isPausing: boolean) {
    this.#isPausing = isPausing;
    this.#running = vcpus.map((vcpu, i) => {
      const link = links[i];
      if (link === undefined) throw new RangeError(`there is no thread for vCPU ${i}`);
      const baton = new VcpuBaton(link.baton);
      baton.isPauseWanted = isPausing;
      const { fd, address, bytes } = vcpu.handle;
      baton.start({ fd, runAddress: address, runBytes: bytes, door });
      return { vcpu, baton, bell: new InboxBell(link.control), isParked: false };
    });
  }

  /** Asks all of them to stop at an instruction boundary, or lets them continue. */
  set isPausing(value: boolean) {
    if (value === this.#isPausing) return;
    this.#isPausing = value;
    for (const running of this.#running) {
      running.baton.isPauseWanted = value;
      if (value) running.bell.ring();
      else if (running.isParked) {
        running.isParked = false;
        running.baton.resume();
      }
    }
  }

  /**
   * Takes all vCPUs out of the guest, and keeps them out until the result is disposed; also while an exit is handled. Not
   * to an instruction boundary as a pause does: the accesses of their last exits can be incomplete, and are handled after it.
   */
  hold(): Disposable {
    const isFirst = this.#holds++ === 0;
    if (isFirst) {
      for (const { baton, bell } of this.#running) {
        if (baton.isMachinesTurn) continue;
        baton.isPauseWanted = true;
        bell.ring();
      }
      for (const { baton } of this.#running) baton.awaitOutside();
    }
    // Those that were kicked out have given their batons and rung: `answer` resumes them as after any exit.
    return disposable(() => {
      if (--this.#holds > 0) return;
      for (const { baton } of this.#running) baton.isPauseWanted = this.#isPausing;
    });
  }

  get areAllParked(): boolean {
    return this.#running.every(({ isParked }) => isParked);
  }

  /**
   * Handles the exits that are waiting, and lets the vCPUs continue whose exit is handled.
   * @param handle returns whether it could handle the exit
   */
  answer(handle: (index: number, result: number) => boolean): void {
    for (const [index, running] of this.#running.entries()) {
      const { baton } = running;
      if (running.isParked || !baton.isMachinesTurn) continue;
      const { result } = baton;
      if (!handle(index, result)) return;
      if (this.#isPausing && result === INTERRUPTED) running.isParked = true;
      else baton.resume();
    }
  }
}
