import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { VfioFileOps } from '../core/file-ops.js';
import type { KvmPointer } from '../core/ops.js';

/** A VM with nothing behind it but its references; it tells on whoever uses it after its end. */
export class ScriptedVm implements KvmPointer {
  readonly name: string;
  /** What the last put runs: the VM's end, which in KVM releases the kvm-vfio device. */
  onDestroy: (() => void) | undefined;
  /** Calls made after the VM was freed: each is a use after free. */
  readonly usesAfterFree: string[] = [];
  #references = 1;
  #isFreed = false;

  constructor(name: string) {
    this.name = name;
  }

  get references(): number {
    return this.#references;
  }

  get isAlive(): boolean {
    return this.#references > 0;
  }

  getUnlessDying(): boolean {
    if (this.#isFreed) {
      this.usesAfterFree.push(`${this.name}: getUnlessDying`);
      return false;
    }
    if (this.#references === 0) return false;
    this.#references++;
    return true;
  }

  put(): void {
    if (this.#isFreed) {
      this.usesAfterFree.push(`${this.name}: put`);
      return;
    }
    this.#references--;
    if (this.#references > 0) return;
    this.onDestroy?.();
    this.#isFreed = true;
  }

  /** The VM's memory is gone: any later call is noted. Its last put does this. */
  get isFreed(): boolean {
    return this.#isFreed;
  }
}

/** A file as the kvm-vfio device takes it. */
export interface ScriptedFile {
  readonly target: string;
  readonly isOpen?: boolean;
}

/**
 * The kvm-vfio device of a {@link ScriptedVm}, by the rules of virt/kvm/vfio.c: for tests of association without /dev/kvm.
 */
export class ScriptedKvmVfio implements Disposable {
  readonly #vm: ScriptedVm;
  readonly #ops: VfioFileOps | undefined;
  readonly #files: ScriptedFile[] = [];

  /** @param ops undefined: no VFIO is there */
  constructor(vm: ScriptedVm, ops: VfioFileOps | undefined) {
    this.#vm = vm;
    this.#ops = ops;
  }

  /** KVM_DEV_VFIO_FILE_ADD. @throws SysError EBADF closed; EINVAL not a VFIO file; EEXIST added already */
  addFile(file: ScriptedFile): void {
    const call = 'KVM_DEV_VFIO_FILE_ADD';
    if (file.isOpen === false) throw fail(call, file, 'EBADF');
    if (this.#ops?.isValid(file) !== true) throw fail(call, file, 'EINVAL');
    if (this.#files.includes(file)) throw fail(call, file, 'EEXIST');
    this.#files.push(file);
    this.#ops.setKvm(file, this.#vm);
  }

  /** KVM_DEV_VFIO_FILE_DEL. @throws SysError ENOENT if it was not added */
  delFile(file: ScriptedFile): void {
    const index = this.#files.indexOf(file);
    if (index < 0) throw fail('KVM_DEV_VFIO_FILE_DEL', file, 'ENOENT');
    this.#files.splice(index, 1);
    this.#ops?.setKvm(file, null);
  }

  /** Every file is told that the VM is gone, oldest first. */
  [Symbol.dispose](): void {
    for (let file = this.#files.shift(); file !== undefined; file = this.#files.shift())
      this.#ops?.setKvm(file, null);
  }
}

const fail = (call: string, { target }: ScriptedFile, code: keyof typeof errno) =>
  new SysError({ call, target, errno: errno[code] });
