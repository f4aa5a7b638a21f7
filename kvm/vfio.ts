import { errno, errnoName } from '../sys/errno.js';
import { SysError } from '../sys/error.js';
import type { Request } from '../sys/ioctl.js';
import { Scope } from '../sys/scope.js';
import { trace } from '../sys/trace.js';
import type { KvmDevice } from './device.js';
import type { KvmReference } from './reference.js';
import {
  KVM_DEV_TYPE_VFIO,
  KVM_DEV_VFIO_FILE,
  KVM_DEV_VFIO_FILE_ADD,
  KVM_DEV_VFIO_FILE_DEL,
  KVM_SET_DEVICE_ATTR,
} from './uapi.js';
import type { Vm } from './vm.js';

/** An open VFIO file: a kernel file with a descriptor, or an object of a provider in this process. */
export interface VfioFile {
  /** Names the file in errors: `/dev/vfio/26`, `group 0 (core)`. */
  readonly target: string;
  /** The kernel's descriptor; undefined for a file of this process. */
  readonly fd?: number;
  /** False once a file of this process is closed; undefined if its provider does not report it. */
  readonly isOpen?: boolean;
}

/**
 * What kvm-vfio needs from VFIO for files of this process. Linux resolves these functions with symbol_get; here they
 * are injected. Never called for kernel files. None of them throws.
 */
export interface VfioFileOps {
  /** Whether this is a VFIO file. @see vfio_file_is_valid */
  isValid(file: VfioFile): boolean;
  /** Associates the file with a VM; null ends the association. @see vfio_file_set_kvm */
  setKvm(file: VfioFile, kvm: KvmReference | null): void;
  /** Whether all DMA of the file's devices snoops caches. @see vfio_file_enforced_coherent */
  enforcedCoherent(file: VfioFile): boolean;
}

/** Injection token of the port. */
export const VfioFileOps: unique symbol = Symbol('VfioFileOps');

const hints: Readonly<Record<string, string>> = {
  EBADF: 'it is closed',
  EEXIST: 'the file was added before',
  ENOENT: 'the file was not added to this VM',
  EINVAL: 'it is not a VFIO group or device file, or no VFIO core is bound that knows it',
  ENXIO: 'kvm-vfio has no such attribute',
};

/** One ioctl serves both attributes; an error names the attribute. */
const FILE_ADD: Request = { ...KVM_SET_DEVICE_ATTR, name: 'KVM_DEV_VFIO_FILE_ADD', hints };
const FILE_DEL: Request = { ...KVM_SET_DEVICE_ATTR, name: 'KVM_DEV_VFIO_FILE_DEL', hints };

/**
 * The kvm-vfio pseudo device: associates VFIO files with a VM. Kernel files go to the kernel's own kvm-vfio device,
 * which is created with the first of them; files of this process go to the injected {@link VfioFileOps}. Rules and
 * errors of virt/kvm/vfio.c apply to both. Add a file before opening its devices: drivers may need the VM in their
 * open. Machine thread.
 */
export class KvmVfio implements Disposable {
  readonly #vm: Vm;
  readonly #ops: VfioFileOps | undefined;
  /** Files of this process that are added, oldest first. */
  readonly #files: VfioFile[] = [];
  readonly #scope: Scope;
  #kernel: KvmDevice | undefined;
  #isNoncoherent = false;
  #isClosed = false;

  private constructor(vm: Vm, ops: VfioFileOps | undefined, scope: Scope) {
    this.#vm = vm;
    this.#ops = ops;
    this.#scope = scope;
  }

  /**
   * Creates the VM's kvm-vfio device; the VM disposes it at the latest.
   * @param ops undefined without a VFIO core in this process: only kernel files can be added then
   * @throws SysError EBUSY if the VM has one
   */
  static create(vm: Vm, ops: VfioFileOps | undefined): KvmVfio {
    const scope = new Scope();
    const device = new KvmVfio(vm, ops, scope);
    scope.own(vm.attachKvmVfio(device));
    scope.defer(() => device.#kernel?.[Symbol.dispose]());
    scope.defer(() => device.#release());
    return device;
  }

  /** Whether {@link setAttr} supports the attribute. */
  hasAttr(group: number, attr: number): boolean {
    return group === KVM_DEV_VFIO_FILE && (attr === KVM_DEV_VFIO_FILE_ADD || attr === KVM_DEV_VFIO_FILE_DEL);
  }

  /** {@link addFile} and {@link removeFile} by attribute number. @throws SysError ENXIO for an unknown attribute */
  setAttr(group: number, attr: number, file: VfioFile): void {
    if (!this.hasAttr(group, attr)) {
      const target = `kvm-vfio, group ${group}, attribute ${attr}`;
      throw new SysError({ call: KVM_SET_DEVICE_ATTR.name, target, errno: errno.ENXIO, hint: hints.ENXIO });
    }
    if (attr === KVM_DEV_VFIO_FILE_ADD) this.addFile(file);
    else this.removeFile(file);
  }

  /**
   * Associates a file with the VM.
   * @throws SysError EBADF if the file or this device is closed; EINVAL if it is not a VFIO file, or no VFIO core knows
   *   it; EEXIST if it is added already; ENODEV for a kernel file if the kernel lacks kvm-vfio
   */
  addFile(file: VfioFile): void {
    this.#begin('kvm-vfio add', FILE_ADD, file);
    if (file.fd !== undefined) {
      this.#setKernelAttr(KVM_DEV_VFIO_FILE_ADD, FILE_ADD, file, file.fd);
      return;
    }
    if (file.isOpen === false) throw this.#error(FILE_ADD, file, errno.EBADF);
    if (this.#ops?.isValid(file) !== true) throw this.#error(FILE_ADD, file, errno.EINVAL);
    if (this.#files.includes(file)) throw this.#error(FILE_ADD, file, errno.EEXIST);
    this.#files.push(file);
    this.#vm.startAssignment();
    this.#ops.setKvm(file, this.#vm.reference);
    this.#updateCoherency();
  }

  /** Ends the association. @throws SysError EBADF if the file or this device is closed; ENOENT if it was not added */
  removeFile(file: VfioFile): void {
    this.#begin('kvm-vfio remove', FILE_DEL, file);
    if (file.fd !== undefined) {
      this.#setKernelAttr(KVM_DEV_VFIO_FILE_DEL, FILE_DEL, file, file.fd);
      return;
    }
    const index = this.#files.indexOf(file);
    if (index >= 0) {
      this.#files.splice(index, 1);
      this.#vm.endAssignment();
      this.#ops?.setKvm(file, null);
    }
    this.#updateCoherency();
    if (index < 0) throw this.#error(FILE_DEL, file, file.isOpen === false ? errno.EBADF : errno.ENOENT);
  }

  #setKernelAttr(attr: number, request: Request, file: VfioFile, fd: number): void {
    this.#kernel ??= this.#vm.createDevice(KVM_DEV_TYPE_VFIO);
    const value = new Uint8Array(new Int32Array([fd]).buffer);
    this.#kernel.setAttr(KVM_DEV_VFIO_FILE, attr, value, { request, target: file.target });
  }

  /** Registers non-coherent DMA once per VM, while any added file needs it. */
  #updateCoherency(): void {
    const ops = this.#ops;
    const isNoncoherent = ops !== undefined && this.#files.some((file) => !ops.enforcedCoherent(file));
    if (isNoncoherent === this.#isNoncoherent) return;
    this.#isNoncoherent = isNoncoherent;
    if (isNoncoherent) this.#vm.registerNoncoherentDma();
    else this.#vm.unregisterNoncoherentDma();
  }

  /** Ends each association before it drops the file, oldest first, like kvm_vfio_release. */
  #release(): void {
    this.#isClosed = true;
    for (let file = this.#files[0]; file !== undefined; file = this.#files[0]) {
      this.#ops?.setKvm(file, null);
      this.#files.shift();
      this.#vm.endAssignment();
    }
    this.#updateCoherency();
  }

  #error(request: Request, file: VfioFile, code: number): SysError {
    return new SysError({
      call: request.name,
      target: file.target,
      errno: code,
      hint: hints[errnoName(code)],
    });
  }

  #begin(what: string, request: Request, file: VfioFile): void {
    if (this.#isClosed) throw this.#error(request, { target: 'kvm-vfio' }, errno.EBADF);
    if (trace.vfio.hasSubscribers) trace.vfio.publish({ what, kvm: this.#vm.fd.target, file: file.target });
  }

  /** Removes all files, oldest first, and closes the kernel's device if there is one. */
  [Symbol.dispose](): void {
    this.#scope[Symbol.dispose]();
  }
}
