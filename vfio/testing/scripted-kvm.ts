/** A scripted KVM, for tests of the association between VFIO files and VMs without /dev/kvm. */
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { KvmGuest } from '../../sys/kvm-guest.js';
import type { KvmPointer } from '../driver.js';
import type { VfioFileOps } from '../file-ops.js';

/** A VM: counts its references, and records uses after it is freed. */
export class ScriptedVm implements KvmPointer {
  /** Name for messages. */
  readonly name: string;
  /** Its memory; absent unless the test offers one. */
  guest: KvmGuest | undefined;
  /** Called by the last put before the VM is freed; in KVM, this releases the kvm-vfio device. */
  onDestroy: (() => void) | undefined;
  /** Calls made after the VM was freed: each is a use after free. */
  readonly usesAfterFree: string[] = [];
  /** Users of noncoherent DMA: registrations minus unregistrations. */
  noncoherentDma = 0;
  /** Number of registrations and unregistrations. */
  noncoherentCalls = 0;
  /** Number of files added to kvm-vfio. */
  assignments = 0;
  #references = 1;
  #isFreed = false;
  #kvmVfio: ScriptedKvmVfio | undefined;

  constructor(name = 'vm') {
    this.name = name;
  }

  /** Current number of references; one is the owner's. */
  get references(): number {
    return this.#references;
  }

  /** Whether the last reference was dropped. */
  get isFreed(): boolean {
    return this.#isFreed;
  }

  getUnlessDying(): boolean {
    if (this.#isFreed) this.usesAfterFree.push('getUnlessDying');
    if (this.#references === 0) return false;
    this.#references++;
    return true;
  }

  put(): void {
    if (this.#references === 0) {
      this.usesAfterFree.push('put');
      return;
    }
    this.#references--;
    if (this.#references > 0) return;
    this.onDestroy?.();
    this.#kvmVfio?.[Symbol.dispose]();
    this.#isFreed = true;
  }

  /** KVM_CREATE_DEVICE KVM_DEV_TYPE_VFIO. @throws SysError EBUSY if the VM has one */
  createKvmVfio(ops: VfioFileOps | undefined): ScriptedKvmVfio {
    if (this.#kvmVfio !== undefined) {
      throw new SysError({
        call: 'KVM_CREATE_DEVICE KVM_DEV_TYPE_VFIO',
        target: this.name,
        errno: errno.EBUSY,
      });
    }
    this.#kvmVfio = new ScriptedKvmVfio(this, ops, () => {
      this.#kvmVfio = undefined;
    });
    return this.#kvmVfio;
  }
}

/** A file that the kvm-vfio device takes. */
export interface ScriptedFile {
  /** Name for messages: `group 0 (core)`. */
  readonly target: string;
  /** False once it is closed; undefined means open. */
  readonly isOpen?: boolean;
}

const KVM_DEV_VFIO_FILE = 1;
const KVM_DEV_VFIO_FILE_ADD = 1;
const KVM_DEV_VFIO_FILE_DEL = 2;

/** The kvm-vfio device of a {@link ScriptedVm}, with the rules of virt/kvm/vfio.c. */
export class ScriptedKvmVfio implements Disposable {
  readonly #vm: ScriptedVm;
  readonly #ops: VfioFileOps | undefined;
  readonly #files: ScriptedFile[] = [];
  readonly #release: () => void;

  constructor(vm: ScriptedVm, ops: VfioFileOps | undefined, release: () => void) {
    this.#vm = vm;
    this.#ops = ops;
    this.#release = release;
  }

  /** Whether {@link setAttr} supports the attribute. */
  hasAttr(group: number, attr: number): boolean {
    return group === KVM_DEV_VFIO_FILE && (attr === KVM_DEV_VFIO_FILE_ADD || attr === KVM_DEV_VFIO_FILE_DEL);
  }

  /** @throws SysError ENXIO for an unknown attribute; as {@link addFile} and {@link removeFile} */
  setAttr(group: number, attr: number, file: ScriptedFile): void {
    if (!this.hasAttr(group, attr)) throw fail('KVM_SET_DEVICE_ATTR', file, 'ENXIO');
    if (attr === KVM_DEV_VFIO_FILE_ADD) this.addFile(file);
    else this.removeFile(file);
  }

  /**
   * KVM_DEV_VFIO_FILE_ADD.
   * @throws SysError EBADF if it is closed; EINVAL if it is no VFIO file; EEXIST if already added
   */
  addFile(file: ScriptedFile): void {
    const call = 'KVM_DEV_VFIO_FILE_ADD';
    if (file.isOpen === false) throw fail(call, file, 'EBADF');
    if (this.#ops?.isValid(file) !== true) throw fail(call, file, 'EINVAL');
    if (this.#files.includes(file)) throw fail(call, file, 'EEXIST');
    this.#files.push(file);
    this.#vm.assignments++;
    this.#ops.setKvm(file, this.#vm);
    this.#updateCoherency();
  }

  /** KVM_DEV_VFIO_FILE_DEL. @throws SysError EBADF if it is closed; ENOENT if it was not added */
  removeFile(file: ScriptedFile): void {
    const index = this.#files.indexOf(file);
    if (index >= 0) {
      this.#files.splice(index, 1);
      this.#vm.assignments--;
      this.#ops?.setKvm(file, null);
    }
    this.#updateCoherency();
    if (index < 0) throw fail('KVM_DEV_VFIO_FILE_DEL', file, file.isOpen === false ? 'EBADF' : 'ENOENT');
  }

  #updateCoherency(): void {
    const ops = this.#ops;
    const isNoncoherent = ops !== undefined && this.#files.some((file) => !ops.enforcedCoherent(file));
    if (isNoncoherent === this.#vm.noncoherentDma > 0) return;
    this.#vm.noncoherentDma += isNoncoherent ? 1 : -1;
    this.#vm.noncoherentCalls++;
  }

  /** Ends the association of each file, first added first, before dropping the reference to it. */
  [Symbol.dispose](): void {
    for (let file = this.#files[0]; file !== undefined; file = this.#files[0]) {
      this.#ops?.setKvm(file, null);
      this.#files.shift();
      this.#vm.assignments--;
    }
    this.#updateCoherency();
    this.#release();
  }
}

const fail = (call: string, { target }: ScriptedFile, code: keyof typeof errno) =>
  new SysError({ call, target, errno: errno[code] });
