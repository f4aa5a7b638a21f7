import * as libc from '../sys/libc.js';
import { RunPage, type VcpuExit } from './exits.js';
import { KVM_RUN } from './uapi-vcpu.js';

/** A vCPU as numbers, to be handed to the thread that runs it. The {@link Vcpu} stays the owner. */
export interface VcpuHandle {
  /** For messages: `vcpu 0`. */
  readonly target: string;
  readonly fd: number;
  /** Where kvm_run is mapped. */
  readonly address: number;
  readonly bytes: number;
}

/**
 * Runs a vCPU in the calling thread. Not to be used after the vCPU's owner has disposed it: its fd number may by then
 * be something else.
 */
export class VcpuRunner {
  readonly page: RunPage;
  readonly #target: string;
  readonly #enter: libc.PreparedIoctl;

  private constructor(page: RunPage, target: string, enter: libc.PreparedIoctl) {
    this.page = page;
    this.#target = target;
    this.#enter = enter;
  }

  /**
   * @param door the way into the kernel; `koffi` needs that optional package
   * @throws Error if `door` is `koffi` and that is not installed
   */
  static of(handle: VcpuHandle, door?: libc.HotDoor): VcpuRunner {
    const page = new RunPage(handle.address, handle.bytes);
    return new VcpuRunner(page, handle.target, libc.prepareIoctl(handle.fd, KVM_RUN.number, 0, door));
  }

  /**
   * Lets the guest run until something is to be done for it. Blocks the thread; a signal with immediate_exit set
   * ({@link RunPage.setImmediateExit}) ends it.
   * @returns the exit, valid until the next run
   * @throws SysError EFAULT for memory that is not there, EBADF, EIO once the VM is dead
   * @see KVM_RUN
   */
  run(): VcpuExit {
    return this.page.exit(this.#enter(), this.#target);
  }
}
