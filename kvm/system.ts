import { readFileSync, type Stats, statSync } from 'node:fs';
import { errno } from '../sys/errno.js';
import { SysError } from '../sys/error.js';
import { Fd } from '../sys/fd.js';
import { ioctl, type Request } from '../sys/ioctl.js';
import { Scope } from '../sys/scope.js';
import { type Cap, caps } from './caps.js';
import { decodeCpuid, encodeCpuid } from './cpuid.js';
import { getMsrs } from './msrs.js';
import { uninterrupted, withRoom } from './retries.js';
import * as uapi from './uapi.js';
import { KVM_GET_MSRS } from './uapi-vcpu.js';
import { Vm } from './vm.js';

const hints: Readonly<Record<string, string>> = {
  ENOENT:
    'load the module (modprobe kvm_intel, or kvm_amd); if that fails, turn on VT-x or AMD-V (SVM) in the firmware, or nested virtualisation if this is a VM',
  ENXIO: 'load the module (modprobe kvm_intel, or kvm_amd)',
  ENODEV: 'load the module (modprobe kvm_intel, or kvm_amd)',
  EPERM: 'this user may not open the device: a container needs it in its list of devices (--device /dev/kvm)',
};

const GROUP_READS_AND_WRITES = 0o060;

/** What lets this user open the node, by whose it is. */
function accessHint(path: string): string {
  const stats = statsOf(path);
  if (stats === undefined) return 'this user may not look into a folder of the path';
  const group = groupName(stats.gid);
  const isForGroup = (stats.mode & GROUP_READS_AND_WRITES) === GROUP_READS_AND_WRITES;
  if (isForGroup && stats.gid !== 0)
    return `join the group ${group} (usermod -aG ${group} "$USER", then log in again)`;
  const mode = (stats.mode & 0o777).toString(8).padStart(3, '0');
  return (
    `it belongs to user ${stats.uid} and group ${group}, with mode ${mode}: run as root \`chgrp kvm ${path}\` and ` +
    `\`chmod 660 ${path}\`, then join the group kvm (usermod -aG kvm "$USER", and log in again)`
  );
}

/** undefined where stat(2) fails as open(2) did. */
function statsOf(path: string): Stats | undefined {
  try {
    return statSync(path);
  } catch {
    return undefined;
  }
}

/** The group's name, or its number if it has none here. */
function groupName(gid: number): string {
  try {
    const line = readFileSync('/etc/group', 'utf8')
      .split('\n')
      .find((text) => text.split(':')[2] === String(gid));
    return line?.split(':')[0] ?? String(gid);
  } catch {
    return String(gid);
  }
}

function openDevice(path: string): Fd {
  try {
    return Fd.open(path);
  } catch (error) {
    if (!(error instanceof SysError)) throw error;
    const { call, target, errno, cause } = error;
    const hint = error.code === 'EACCES' ? accessHint(path) : hints[error.code];
    throw new SysError({ call, target, errno, cause, hint });
  }
}

/** The system fd, `/dev/kvm`: queries what the kernel and processor support, and creates VMs. */
export class Kvm implements Disposable {
  /** The descriptor of /dev/kvm, owned by this object. */
  readonly fd: Fd;

  private constructor(fd: Fd) {
    this.fd = fd;
  }

  /**
   * Opens the device and checks the API version.
   * @throws SysError ENOENT, ENXIO, ENODEV, EACCES or EPERM, with the fix as the hint; ENOTSUP for another API version
   */
  static open(path = '/dev/kvm'): Kvm {
    using scope = new Scope();
    const kvm = Kvm.adopt(scope.own(openDevice(path)));
    const version = kvm.getApiVersion();
    if (version !== uapi.KVM_API_VERSION) {
      const hint = `API version ${uapi.KVM_API_VERSION} is required, this kernel has ${version}`;
      throw new SysError({ call: 'KVM_GET_API_VERSION', target: path, errno: errno.ENOTSUP, hint });
    }
    scope.move();
    return kvm;
  }

  /** Takes ownership of an open `/dev/kvm` descriptor. */
  static adopt(fd: Fd): Kvm {
    return new Kvm(fd);
  }

  /** Always 12 since Linux 2.6.22. @see KVM_GET_API_VERSION */
  getApiVersion(): number {
    return ioctl(this.fd, uapi.KVM_GET_API_VERSION);
  }

  /**
   * Returns 0 if the capability is missing; otherwise 1, or a value defined by the capability. A VM may report a
   * different one: see {@link Vm.checkExtension}.
   */
  checkExtension(cap: Cap): number {
    return ioctl(this.fd, uapi.KVM_CHECK_EXTENSION, caps[cap]);
  }

  /** @throws SysError ENOTSUP, listing every missing capability */
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

  /** Size in bytes of each vCPU's mapping: kvm_run, the port I/O data and the coalesced ring. */
  getVcpuMmapSize(): number {
    return ioctl(this.fd, uapi.KVM_GET_VCPU_MMAP_SIZE);
  }

  /** CPUID leaves that both the processor and KVM support. @see KVM_GET_SUPPORTED_CPUID */
  getSupportedCpuid(): uapi.CpuidEntry2[] {
    return this.#getCpuid(uapi.KVM_GET_SUPPORTED_CPUID);
  }

  /** CPUID leaves of features that KVM emulates, whether or not the processor has them. @see KVM_GET_EMULATED_CPUID */
  getEmulatedCpuid(): uapi.CpuidEntry2[] {
    return this.#getCpuid(uapi.KVM_GET_EMULATED_CPUID);
  }

  #getCpuid(request: Request): uapi.CpuidEntry2[] {
    return decodeCpuid(this.#getList(request, (length) => encodeCpuid([], length)));
  }

  /** Indices of the MSRs that hold guest state, to save and restore. */
  getMsrIndexList(): number[] {
    return this.#getMsrList(uapi.KVM_GET_MSR_INDEX_LIST);
  }

  /** Indices of the MSRs that describe features, readable with {@link getFeatureMsrs}. */
  getMsrFeatureIndexList(): number[] {
    return this.#getMsrList(uapi.KVM_GET_MSR_FEATURE_INDEX_LIST);
  }

  #getMsrList(request: Request): number[] {
    const bytes = this.#getList(request, (length) => uapi.MsrList.encode({ nmsrs: length }, length * 4));
    const { nmsrs } = uapi.MsrList.decode(bytes);
    return Array.from(new Uint32Array(bytes.buffer, uapi.MsrList.size, nmsrs));
  }

  #getList(request: Request, room: (length: number) => Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
    return withRoom((length) => {
      const bytes = room(length);
      ioctl(this.fd, request, bytes);
      return bytes;
    });
  }

  /** Values of feature MSRs as KVM supports them. @throws SysError EINVAL naming the first index it rejects */
  getFeatureMsrs(indices: readonly number[]): uapi.MsrEntry[] {
    return getMsrs(this.fd, KVM_GET_MSRS, indices);
  }

  /**
   * Creates a VM without memory, vCPUs or devices.
   * @param name names the VM in errors and traces
   * @throws SysError ENOMEM; EMFILE; EBUSY if another hypervisor holds the virtualisation extensions
   */
  createVm(name = 'vm'): Vm {
    using scope = new Scope();
    // It is slow enough to be interrupted by a signal, such as a profiler's.
    const number = uninterrupted(() => ioctl(this.fd, uapi.KVM_CREATE_VM));
    const vmFd = scope.own(Fd.adopt(number, name));
    const vm = Vm.adopt(vmFd, this.getVcpuMmapSize());
    scope.move();
    return vm;
  }

  /** Closes the descriptor; VMs created through it stay usable. */
  [Symbol.dispose](): void {
    this.fd[Symbol.dispose]();
  }
}
