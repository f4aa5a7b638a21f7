/** What option `bind=` does: PCI functions that are with a VFIO driver as long as a device of their group is assigned. */
import { disposable, Scope } from '../../sys/scope.js';
import { type BindingHost, bindToDriver } from './binding.js';

/** Of one IOMMU group. */
interface GroupUse {
  users: number;
  /** Restores the bindings, last made first. */
  readonly undo: Scope;
}

/**
 * Bindings that are undone by group, not by function: the kernel lets no driver of the host have a function while another
 * one of its group is open.
 */
export class RunBindings {
  readonly #host: BindingHost;
  readonly #groups = new Map<string, GroupUse>();

  constructor(host: BindingHost) {
    this.#host = host;
  }

  /**
   * Binds a PCI function that has no VFIO driver yet, and uses its group.
   * @param address in full form
   * @returns what {@link use} returns
   * @throws SysError as bindToDriver
   */
  bind(address: string, driver: string): Disposable {
    const { isVfio } = this.#host.sysfs.pciDevice(address);
    if (isVfio) return this.use(address);
    using bound = new Scope();
    bound.own(bindToDriver(this.#host, address, driver));
    const { group, use } = this.#enter(address);
    group.undo.own(bound.move());
    return use;
  }

  /** Keeps the bindings of a function's group until the result, and all other users of it, are disposed. */
  use(address: string): Disposable {
    return this.#enter(address).use;
  }

  #enter(address: string): { readonly group: GroupUse; readonly use: Disposable } {
    const key = this.#key(address);
    const group = this.#groups.get(key) ?? { users: 0, undo: new Scope() };
    this.#groups.set(key, group);
    group.users++;
    const use = disposable(() => {
      if (--group.users > 0) return;
      this.#groups.delete(key);
      group.undo[Symbol.dispose]();
    });
    return { group, use };
  }

  /** A function without an IOMMU has no group, or one of its own once it is bound. */
  #key(address: string): string {
    const { group } = this.#host.sysfs.pciDevice(address);
    return group === undefined ? address : String(group);
  }
}
