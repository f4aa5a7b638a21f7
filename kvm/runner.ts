import * as libc from '../sys/libc.js';
import { RunPage, type VcpuExit } from './exits.js';
import { KVM_RUN } from './uapi-vcpu.js';

/** A vCPU as plain numbers, to pass to the thread that runs it. The {@link Vcpu} remains the owner. */
export interface VcpuHandle {
  /** Names the vCPU in errors: `vcpu 0`. */
  readonly target: string;
  /** Number of the vCPU's descriptor, valid in all threads of this process until the owner closes it. */
  readonly fd: number;
  /** Address of the mapped kvm_run. */
  readonly address: number;
  /** Length of that mapping in bytes: KVM_GET_VCPU_MMAP_SIZE. */
  readonly bytes: number;
}

/** Runs a vCPU in the calling thread. Do not use it after the vCPU is disposed: its fd number may have been reused. */
export class VcpuRunner {
  /** The vCPU's kvm_run as this thread reads it. */
  readonly page: RunPage;
  readonly #target: string;
  readonly #enter: libc.PreparedIoctl;

  private constructor(page: RunPage, target: string, enter: libc.PreparedIoctl) {
    this.page = page;
    this.#target = target;
    this.#enter = enter;
  }

  /**
   * Attaches to a vCPU, whose owner keeps it open while the runner is in use.
   * @param door the FFI library that calls KVM_RUN, `ffi-rs` by default; `koffi` requires that optional package
   * @throws Error if `door` is `koffi` and the package is not installed
   */
  static of(handle: VcpuHandle, door?: libc.HotDoor): VcpuRunner {
    const page = new RunPage(handle.address, handle.bytes);
    return new VcpuRunner(page, handle.target, libc.prepareIoctl(handle.fd, KVM_RUN.number, 0, door));
  }

  /**
   * Runs the guest until its next exit. Blocks the thread; a signal with immediate_exit set ({@link
   * RunPage.setImmediateExit}) interrupts it.
   * @returns the exit, valid until the next run
   * @throws SysError EFAULT for guest memory that the host cannot access; EBADF; EIO once the VM is dead
   * @see KVM_RUN
   */
  run(): VcpuExit {
    return this.page.exit(this.#enter(), this.#target);
  }
}
