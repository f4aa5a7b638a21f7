import type { DoorChoice, IoctlDoor } from '../sys/ioctl-door.js';
import type { PreparedIoctl } from '../sys/libc.js';
import { openDoor } from '../sys/open-door.js';
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
  readonly #enter: PreparedIoctl;

  private constructor(page: RunPage, target: string, enter: PreparedIoctl) {
    this.page = page;
    this.#target = target;
    this.#enter = enter;
  }

  /**
   * Attaches to a vCPU, whose owner keeps it open while the runner is in use.
   * @param door calls KVM_RUN: an FFI library, by default the fastest that works here; or an implementation of your own
   * @throws SysError as {@link openDoor}
   */
  static of(handle: VcpuHandle, door: DoorChoice | IoctlDoor = 'auto'): VcpuRunner {
    const page = new RunPage(handle.address, handle.bytes);
    const opened = typeof door === 'string' ? openDoor(door) : door;
    return new VcpuRunner(page, handle.target, opened.prepare(handle.fd, KVM_RUN.number, 0));
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
