/** VFs of a divided card, each with a socket: one that gets a type becomes a device that is served there. Serving thread only. */
import { errno } from '../sys/errno.js';
import { SysError } from '../sys/error.js';
import { FuseMount } from '../sys/fuse-mount.js';
import { FuseTree } from '../sys/fuse-tree.js';
import type { VfioCore } from '../vfio/core/core.js';
import type { VfioProvider } from '../vfio/provider.js';
import type { ServedDevices } from './served-devices.js';
import { type VfCard, type VfCardType, VGPU_TYPE, vfAddress, vfSysfs } from './vf-sysfs.js';

/** What VFs are made of. */
export interface ServedVfsOptions {
  /** Where their sysfs is mounted. */
  readonly folder: string;
  /** Their PCI ID there; undefined for the vGPUs' own. */
  readonly id: string | undefined;
  /** A socket for each. */
  readonly sockets: readonly string[];
  readonly provider: VfioProvider;
  /** Where the card is, alone of its kind. */
  readonly mdevs: Pick<VfioCore['mdevs'], 'parents'>;
  readonly served: ServedDevices;
  readonly tell: (text: string, level: 'info' | 'warn') => void;
}

/**
 * The card of one core, offered by VFs. The errnos are those of NVIDIA's driver, or, where it has a bare EINVAL for everything, those
 * that its maintainers have proposed for Linux: ENOSPC for a lack of room, EBUSY for a vGPU that is in use.
 */
export class ServedVfs implements VfCard {
  readonly totalVfs: number;
  readonly #options: ServedVfsOptions;
  /** By VF: the type that it has. */
  readonly #types = new Map<number, VfCardType>();
  #numVfs: number;

  constructor(options: ServedVfsOptions) {
    this.#options = options;
    this.totalVfs = options.sockets.length;
    this.#numVfs = this.totalVfs;
  }

  /** Mounts the sysfs, whose requests `served` answers beside its clients'. @throws SysError as FuseMount.mount */
  mount(): FuseMount {
    const { folder, id, served, tell } = this.#options;
    const fault = (error: unknown) => tell(`${folder}: ${String(error)}`, 'warn');
    const mount = FuseMount.mount(folder, new FuseTree(vfSysfs(this, id), fault));
    const watched = served.watch({
      fd: mount.fd,
      step: () => {
        mount.step();
        if (mount.isMounted) return;
        watched[Symbol.dispose]();
        tell(`${folder} was unmounted: its VFs keep the types that they have`, 'warn');
      },
    });
    return mount;
  }

  get numVfs(): number {
    return this.#numVfs;
  }

  setNumVfs(count: number): void {
    const refused = (code: 'ERANGE' | 'EBUSY', hint: string) =>
      this.refused(
        new SysError({ call: 'write', target: `sriov_numvfs (${count})`, errno: errno[code], hint }),
      );
    if (count > this.totalVfs) throw refused('ERANGE', `there are sockets for ${this.totalVfs}`);
    if (count === this.#numVfs) return;
    if (count !== 0 && this.#numVfs !== 0) throw refused('EBUSY', 'it has VFs: 0 first');
    const used = [...this.#types.keys()].find((vf) => this.#options.served.hasClient(vf));
    if (used !== undefined) throw refused('EBUSY', `a client has ${vfAddress(used)}`);
    for (const vf of [...this.#types.keys()]) this.#takeBack(vf);
    this.#numVfs = count;
    this.#options.tell(`the card has ${count === 1 ? '1 VF' : `${count} VFs`}`, 'info');
  }

  current(vf: number): number {
    return this.#types.get(vf)?.id ?? 0;
  }

  socket(vf: number): string | undefined {
    return this.#types.has(vf) ? this.#options.sockets[vf] : undefined;
  }

  creatable(vf: number): readonly VfCardType[] {
    if (this.#types.has(vf)) return [];
    const { left } = this.#card();
    return this.#all().filter(({ name }) => (left[name] ?? 0) > 0);
  }

  setType(vf: number, id: number, pid: number): void {
    const { provider, served, sockets, tell } = this.#options;
    const path = sockets[vf] as string;
    const refused = (code: 'EBUSY' | 'EPERM' | 'EINVAL', hint: string) =>
      this.refused(
        new SysError({ call: 'set vGPU type', target: `${vfAddress(vf)} (${id})`, errno: errno[code], hint }),
      );
    const has = this.#types.get(vf);
    if (has !== undefined && served.hasClient(vf)) throw refused('EBUSY', `a client of ${path} has it`);
    if (id === 0) {
      if (has === undefined) return;
      this.#takeBack(vf);
      tell(`${vfAddress(vf)} has no type any more: process ${pid} has taken ${has.name} back`, 'info');
      return;
    }
    if (has !== undefined) throw refused('EPERM', `it has ${has.id}, ${has.name}: 0 first`);
    const type = this.#all().find((each) => each.id === id);
    if (type === undefined)
      throw refused(
        'EINVAL',
        `types are ${this.#all()
          .map((each) => `${each.id} (${each.name})`)
          .join(', ')}`,
      );
    const { name: card } = this.#card();
    try {
      served.add(provider, { address: type.name, options: { card }, path }, false, vf);
    } catch (error) {
      throw error instanceof SysError ? this.refused(error) : error;
    }
    this.#types.set(vf, type);
    tell(`${vfAddress(vf)} is a ${type.name} by process ${pid}; serves it at ${path}`, 'info');
  }

  #takeBack(vf: number): void {
    this.#types.delete(vf);
    this.#options.served.remove(vf);
  }

  refused(error: SysError): SysError {
    this.#options.tell(error.message.replace('\n  hint', ''), 'warn');
    return error;
  }

  #card(): { readonly name: string; readonly left: Readonly<Record<string, number>> } {
    const { parents } = this.#options.mdevs;
    const parent = parents.find(({ availableInstances }) => Object.hasOwn(availableInstances, VGPU_TYPE));
    return { name: parent?.name ?? '', left: parent?.availableInstances ?? {} };
  }

  /** All of the card's types, numbered from 1 on. */
  #all(): readonly VfCardType[] {
    return Object.keys(this.#card().left).map((name, i) => ({ id: i + 1, name }));
  }
}
