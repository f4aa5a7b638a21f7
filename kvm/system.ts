import { errno } from '../sys/errno.js';
import { isErrno, SysError } from '../sys/error.js';
import { Fd } from '../sys/fd.js';
import { ioctl, type Request } from '../sys/ioctl.js';
import { Scope } from '../sys/scope.js';
import { type Cap, caps } from './caps.js';
import { decodeCpuid, encodeCpuid } from './cpuid.js';
import { getMsrs } from './msrs.js';
import * as uapi from './uapi.js';
import { KVM_GET_MSRS } from './uapi-vcpu.js';
import { Vm } from './vm.js';

const hints: Readonly<Record<string, string>> = {
  ENOENT:
    'load the module (modprobe kvm_intel, or kvm_amd); if that fails, turn on VT-x or AMD-V (SVM) in the firmware, or nested virtualisation if this is a VM',
  ENXIO: 'load the module (modprobe kvm_intel, or kvm_amd)',
  ENODEV: 'load the module (modprobe kvm_intel, or kvm_amd)',
  EACCES: 'join the group kvm (usermod -aG kvm "$USER", then log in again)',
  EPERM: 'join the group kvm (usermod -aG kvm "$USER", then log in again); a container needs the device too',
};

function openDevice(path: string): Fd {
  try {
    return Fd.open(path);
  } catch (error) {
    if (!(error instanceof SysError)) throw error;
    const { call, target, errno, cause } = error;
    throw new SysError({ call, target, errno, cause, hint: hints[error.code] });
  }
}

/** `/dev/kvm`: what this kernel and processor can do, and the way to a VM. */
export class Kvm implements Disposable {
  readonly fd: Fd;

  private constructor(fd: Fd) {
    this.fd = fd;
  }

  /**
   * Opens the device and checks that it speaks the one API there is.
   * @throws SysError ENOENT, EACCES with what to do; ENOTSUP for another API version
   */
  static open(path = '/dev/kvm'): Kvm {
    using scope = new Scope();
    const kvm = Kvm.adopt(scope.own(openDevice(path)));
    const version = kvm.getApiVersion();
    if (version !== uapi.KVM_API_VERSION) {
      const hint = `version ${uapi.KVM_API_VERSION} is needed, this kernel has ${version}`;
      throw new SysError({ call: 'KVM_GET_API_VERSION', target: path, errno: errno.ENOTSUP, hint });
    }
    scope.move();
    return kvm;
  }

  /** Takes over a descriptor of /dev/kvm that somebody else opened. */
  static adopt(fd: Fd): Kvm {
    return new Kvm(fd);
  }

  /** 12, on every kernel since 2.6.22. @see KVM_GET_API_VERSION */
  getApiVersion(): number {
    return ioctl(this.fd, uapi.KVM_GET_API_VERSION);
  }

  /**
   * 0 if the capability is missing; else 1 or a number whose meaning depends on the capability. A VM may answer
   * differently: see {@link Vm.checkExtension}.
   */
  checkExtension(cap: Cap): number {
    return ioctl(this.fd, uapi.KVM_CHECK_EXTENSION, caps[cap]);
  }

  /** @throws SysError ENOTSUP, naming every one of `needed` that is missing */
  requireExtensions(needed: readonly Cap[]): void {
    const missing = needed.filter((cap) => this.checkExtension(cap) === 0);
    if (missing.length === 0) return;
    const hint = `this kernel’s KVM lacks ${missing.join(', ')}`;
    throw new SysError({
      call: 'KVM_CHECK_EXTENSION',
      target: this.fd.target,
      errno: errno.ENOTSUP,
      hint,
    });
  }

  /** Bytes to map of each vCPU: kvm_run, the port I/O data, the coalesced ring. */
  getVcpuMmapSize(): number {
    return ioctl(this.fd, uapi.KVM_GET_VCPU_MMAP_SIZE);
  }

  /** CPUID leaves that processor and KVM support together: what a guest may be shown. */
  getSupportedCpuid(): uapi.CpuidEntry2[] {
    return this.#getCpuid(uapi.KVM_GET_SUPPORTED_CPUID);
  }

  /** CPUID leaves for features that KVM emulates though the processor may lack them. */
  getEmulatedCpuid(): uapi.CpuidEntry2[] {
    return this.#getCpuid(uapi.KVM_GET_EMULATED_CPUID);
  }

  #getCpuid(request: Request): uapi.CpuidEntry2[] {
    return decodeCpuid(this.#getList(request, (length) => encodeCpuid([], length)));
  }

  /** MSRs that hold guest state: what to save and restore. */
  getMsrIndexList(): number[] {
    return this.#getMsrList(uapi.KVM_GET_MSR_INDEX_LIST);
  }

  /** MSRs that tell features, readable with {@link getFeatureMsrs}. */
  getMsrFeatureIndexList(): number[] {
    return this.#getMsrList(uapi.KVM_GET_MSR_FEATURE_INDEX_LIST);
  }

  #getMsrList(request: Request): number[] {
    const bytes = this.#getList(request, (length) => uapi.MsrList.encode({ nmsrs: length }, length * 4));
    const { nmsrs } = uapi.MsrList.decode(bytes);
    return Array.from(new Uint32Array(bytes.buffer, uapi.MsrList.size, nmsrs));
  }

  /** KVM says E2BIG to a list with too little room. */
  #getList(request: Request, room: (length: number) => Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
    for (let length = 128; ; length *= 8) {
      const bytes = room(length);
      try {
        ioctl(this.fd, request, bytes);
        return bytes;
      } catch (error) {
        if (!isErrno(error, 'E2BIG') || length > 2 ** 16) throw error;
      }
    }
  }

  /** Values of feature MSRs as this KVM has them. @throws SysError EINVAL naming the first one it refuses */
  getFeatureMsrs(indices: readonly number[]): uapi.MsrEntry[] {
    return getMsrs(this.fd, KVM_GET_MSRS, indices);
  }

  /**
   * Makes a VM without memory, vCPUs or devices.
   * @param name for messages
   * @throws SysError ENOMEM; EBUSY if another hypervisor has the processor
   */
  createVm(name = 'vm'): Vm {
    using scope = new Scope();
    const vmFd = scope.own(Fd.adopt(this.#createVmFd(), name));
    const vm = Vm.adopt(vmFd, this.getVcpuMmapSize());
    scope.move();
    return vm;
  }

  /** Creating a VM takes long enough for a signal to come in between, a profiler's for one. */
  #createVmFd(): number {
    for (;;) {
      try {
        return ioctl(this.fd, uapi.KVM_CREATE_VM);
      } catch (error) {
        if (!isErrno(error, 'EINTR')) throw error;
      }
    }
  }

  [Symbol.dispose](): void {
    this.fd[Symbol.dispose]();
  }
}
