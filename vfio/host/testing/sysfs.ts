import {
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { errno } from '../../../sys/errno.js';
import type { HostRoots } from '../roots.js';
import { linkName, Sysfs, text } from '../sysfs.js';
import type { ErrnoName } from './call.js';

export interface FakePciFunction {
  readonly address: string;
  readonly driver?: string;
  /** Driver that takes it when nothing overrides. */
  readonly naturalDriver?: string;
  /** Absent: it is behind no IOMMU. */
  readonly group?: number;
  readonly id?: string;
  readonly class?: string;
  /** Byte 0x0e of config space. */
  readonly headerType?: number;
  readonly cdev?: string;
  readonly resetMethods?: string;
  readonly numaNode?: number;
  readonly physfn?: string;
  readonly virtfns?: readonly string[];
  /** Its configuration space, as far as this user may read; by default a header with its header type. */
  readonly config?: Uint8Array;
  /** Further files in its folder, by name: `resource`, `net/eth0/mtu`. */
  readonly attributes?: Readonly<Record<string, string>>;
}

export interface FakeMdevType {
  readonly type: string;
  readonly name: string;
  readonly instances: number;
}

export interface FakeVfType {
  readonly id: number;
  readonly name: string;
  /** What it takes of the card. */
  readonly memory: number;
}

/** A card whose VFs are vGPUs once they have a type. */
export interface FakeVgpuCard {
  readonly address: string;
  readonly memory: number;
  readonly types: readonly FakeVfType[];
  /** By address: the VF's IOMMU group. */
  readonly vfs: Readonly<Record<string, number>>;
}

/** What Node's fs throws for a write that the kernel refuses. */
const refusal = (code: ErrnoName): Error => Object.assign(new Error(code), { code, errno: -errno[code] });

/** A made-up /sys, /proc, /dev and /lib/modules in a temporary folder, with a kernel that reacts to writes. */
export class FakeHost implements Disposable {
  readonly roots: HostRoots;
  readonly sysfs: Sysfs;
  /** Every write, `path-below-sys=text`. */
  readonly writes: string[] = [];
  /** Errors of writes, by the end of the path: `e1000e/bind`. The write then has no effect. */
  readonly failing = new Map<string, ErrnoName>();
  /** Drivers that take no device. */
  readonly refusing = new Set<string>();
  /** By address: the driver that does not take this device. */
  readonly refuses = new Map<string, string>();
  readonly #root: string;
  readonly #natural = new Map<string, string>();
  /** By address of the VF. */
  readonly #vgpuCards = new Map<string, FakeVgpuCard>();
  #nextMdevGroup = 100;

  private constructor(root: string) {
    this.#root = root;
    const at = (name: string) => join(root, name);
    this.roots = { sys: at('sys'), proc: at('proc'), dev: at('dev'), modules: at('modules') };
    this.sysfs = new Sysfs(this.roots.sys, (path, value) => this.#write(path, value));
  }

  static create(): FakeHost {
    const host = new FakeHost(mkdtempSync(join(tmpdir(), 'host-')));
    for (const folder of [
      'bus/pci/devices',
      'bus/pci/drivers',
      'bus/mdev/devices',
      'kernel/iommu_groups',
      'dev/char',
    ])
      mkdirSync(host.sysfs.path(folder), { recursive: true });
    for (const folder of [host.roots.proc, host.roots.dev, host.roots.modules]) mkdirSync(folder);
    host.addDriver('vfio-pci');
    return host;
  }

  addDriver(name: string): void {
    mkdirSync(this.sysfs.path('bus/pci/drivers', name), { recursive: true });
  }

  /** A file anywhere below the temporary folder: `proc/self/limits`. */
  file(path: string, content: string | Uint8Array): void {
    const full = join(this.#root, path);
    mkdirSync(dirname(full), { recursive: true });
    writeFileSync(full, content);
  }

  /** Content of a file below the temporary folder. */
  read(path: string): string {
    return readFileSync(join(this.#root, path), 'utf8');
  }

  link(path: string, target: string): void {
    const full = join(this.#root, path);
    mkdirSync(dirname(full), { recursive: true });
    rmSync(full, { force: true });
    symlinkSync(target, full);
  }

  addPci(device: FakePciFunction): void {
    const { address, group, id = '8086:10d3' } = device;
    const path = `sys/devices/pci0000:00/${address}`;
    this.file(`${path}/vendor`, `0x${id.slice(0, 4)}\n`);
    this.file(`${path}/device`, `0x${id.slice(5)}\n`);
    this.file(`${path}/class`, `${device.class ?? '0x020000'}\n`);
    const header = new Uint8Array(64);
    header[0x0e] = device.headerType ?? 0;
    this.file(`${path}/config`, device.config ?? header);
    this.file(`${path}/numa_node`, `${device.numaNode ?? -1}\n`);
    this.file(`${path}/driver_override`, '(null)\n');
    for (const [name, value] of Object.entries(device.attributes ?? {})) this.file(`${path}/${name}`, value);
    if (device.resetMethods !== undefined) this.file(`${path}/reset_method`, `${device.resetMethods}\n`);
    mkdirSync(this.sysfs.path('bus/pci'), { recursive: true });
    this.link(`${path}/subsystem`, this.sysfs.path('bus/pci'));
    this.link(`sys/bus/pci/devices/${address}`, join(this.#root, path));
    if (group !== undefined) this.#join(path, group);
    if (device.physfn !== undefined) this.link(`${path}/physfn`, `../${device.physfn}`);
    for (const [i, vf] of (device.virtfns ?? []).entries()) this.link(`${path}/virtfn${i}`, `../${vf}`);
    const natural = device.naturalDriver ?? device.driver;
    if (natural !== undefined) this.#natural.set(address, natural);
    if (device.driver !== undefined) this.#bind(address, device.driver);
    if (device.cdev !== undefined) this.addCdev(path, device.cdev, '511:0');
  }

  /** A process that has files below the temporary folder open: `dev/vfio/26`. */
  addProcess(pid: number, name: string, files: readonly string[]): void {
    this.file(`proc/${pid}/comm`, `${name}\n`);
    mkdirSync(join(this.#root, `proc/${pid}/fd`), { recursive: true });
    for (const [i, file] of files.entries()) this.link(`proc/${pid}/fd/${i + 3}`, join(this.#root, file));
  }

  /** Puts a PCI function behind a bridge; `writes` no longer reach it. */
  moveBelow(bridge: string, address: string): void {
    const from = realpathSync(this.sysfs.path('bus/pci/devices', address));
    const to = join(realpathSync(this.sysfs.path('bus/pci/devices', bridge)), address);
    const group = linkName(join(from, 'iommu_group'));
    renameSync(from, to);
    this.link(`sys/bus/pci/devices/${address}`, to);
    if (group !== undefined) this.link(`sys/kernel/iommu_groups/${group}/devices/${address}`, to);
  }

  /** Takes a file or folder away. */
  remove(path: string): void {
    rmSync(join(this.#root, path), { recursive: true });
  }

  /** A vfio-dev entry below a device. */
  addCdev(devicePath: string, node: string, number: string): void {
    const path = `${devicePath}/vfio-dev/${node}`;
    this.file(`${path}/dev`, `${number}\n`);
    this.link(`${path}/device`, join(this.#root, devicePath));
    this.link(`sys/class/vfio-dev/${node}`, join(this.#root, path));
    this.link(`sys/dev/char/${number}`, join(this.#root, path));
  }

  /** @param parent name of a device of its own, or a PCI function's address */
  addMdevParent(parent: string, types: readonly FakeMdevType[]): void {
    const isPci = this.sysfs.exists('bus/pci/devices', parent);
    const path = `sys/devices/${isPci ? 'pci0000:00' : 'virtual'}/${parent}`;
    for (const { type, name, instances } of types) {
      const folder = `${path}/mdev_supported_types/${type}`;
      this.file(`${folder}/name`, `${name}\n`);
      this.file(`${folder}/available_instances`, `${instances}\n`);
      this.file(`${folder}/device_api`, 'vfio-pci\n');
      this.file(`${folder}/create`, '');
      mkdirSync(join(this.#root, folder, 'devices'));
    }
    this.link(`sys/class/mdev_bus/${parent}`, join(this.#root, path));
  }

  /** As NVIDIA's driver has it, which keeps its VFs, and makes a VFIO device of one when it gets a type. */
  addVgpuCard(card: FakeVgpuCard): void {
    const { address, vfs } = card;
    const virtfns = Object.keys(vfs);
    const attributes = { sriov_totalvfs: '32\n', sriov_numvfs: `${virtfns.length}\n` };
    this.addPci({
      address,
      driver: 'nvidia',
      group: 90,
      id: '10de:26b9',
      class: '0x030200',
      virtfns,
      attributes,
    });
    for (const [vf, group] of Object.entries(vfs)) {
      const attributes = { 'nvidia/current_vgpu_type': '0\n', 'nvidia/creatable_vgpu_types': '' };
      this.addPci({ address: vf, driver: 'nvidia', group, id: '10de:26b9', physfn: address, attributes });
      this.#vgpuCards.set(vf, card);
    }
    this.#updateCreatable(card);
  }

  #setVgpuType(device: string, value: string): void {
    const vf = basename(device);
    const card = this.#vgpuCards.get(vf);
    const id = Number(value);
    const path = `sys/devices/pci0000:00/${vf}`;
    if (card === undefined || !/^\d+$/.test(value)) throw refusal('EINVAL');
    const creatable = readFileSync(join(device, 'nvidia/creatable_vgpu_types'), 'utf8');
    if (id !== 0 && !creatable.split('\n').some((line) => line.startsWith(`${id} `))) throw refusal('EINVAL');
    this.file(`${path}/nvidia/current_vgpu_type`, `${id}\n`);
    if (id === 0) this.remove(`${path}/vfio-dev`);
    else
      this.addCdev(
        path,
        `vfio${Object.keys(card.vfs).indexOf(vf)}`,
        `511:${Object.keys(card.vfs).indexOf(vf)}`,
      );
    this.#updateCreatable(card);
  }

  /** A VF with a type is offered no other; the others what is left. */
  #updateCreatable({ memory, types, vfs }: FakeVgpuCard): void {
    const current = (vf: string) =>
      Number(this.read(`sys/devices/pci0000:00/${vf}/nvidia/current_vgpu_type`));
    const used = Object.keys(vfs).map((vf) => types.find(({ id }) => id === current(vf))?.memory ?? 0);
    const left = used.reduce((rest, each) => rest - each, memory);
    for (const vf of Object.keys(vfs)) {
      const fitting = current(vf) === 0 ? types.filter((type) => type.memory <= left) : [];
      const lines = fitting.map(({ id, name }) => `${id} : ${name}\n`);
      this.file(
        `sys/devices/pci0000:00/${vf}/nvidia/creatable_vgpu_types`,
        ['ID    : vGPU Name\n', ...lines].join(''),
      );
    }
  }

  #join(path: string, group: number): void {
    const groupPath = `sys/kernel/iommu_groups/${group}`;
    this.link(`${path}/iommu_group`, join(this.#root, groupPath));
    this.link(`${groupPath}/devices/${basename(path)}`, join(this.#root, path));
  }

  #bind(address: string, driver: string): void {
    this.addDriver(driver);
    this.link(`sys/devices/pci0000:00/${address}/driver`, this.sysfs.path('bus/pci/drivers', driver));
  }

  /** What the kernel does when an attribute is written. */
  #write(path: string, value: string): void {
    this.writes.push(`${path.slice(this.roots.sys.length + 1)}=${value.trim()}`);
    for (const [end, code] of this.failing) if (path.endsWith(end)) throw refusal(code);
    const name = value.trim();
    const device = dirname(path);
    switch (basename(path)) {
      case 'driver_override':
        writeFileSync(path, name === '' ? '(null)\n' : `${name}\n`);
        return;
      case 'unbind':
        unlinkSync(join(this.sysfs.path('bus/pci/devices', name), 'driver'));
        return;
      case 'drivers_probe': {
        const override = text(join(this.sysfs.path('bus/pci/devices', name), 'driver_override'));
        const driver = override === '(null)' ? this.#natural.get(name) : override;
        const isRefused =
          driver === undefined || this.refusing.has(driver) || this.refuses.get(name) === driver;
        if (!isRefused) this.#bind(name, driver);
        return;
      }
      case 'bind':
        // As bind_store: a device that has a driver, or whose override names another one, is ENODEV.
        if (!this.#mayBind(name, basename(device))) throw refusal('ENODEV');
        this.#bind(name, basename(device));
        return;
      case 'current_vgpu_type':
        this.#setVgpuType(dirname(device), name);
        return;
      case 'create':
        this.#createMdev(device, name);
        return;
      case 'remove':
        this.#removeMdev(device);
        return;
      default:
        writeFileSync(path, value);
    }
  }

  #mayBind(address: string, driver: string): boolean {
    const path = this.sysfs.path('bus/pci/devices', address);
    const override = text(join(path, 'driver_override'));
    return linkName(join(path, 'driver')) === undefined && ['(null)', driver].includes(override ?? '');
  }

  #createMdev(typeFolder: string, uuid: string): void {
    const available = join(typeFolder, 'available_instances');
    writeFileSync(available, `${Number(readFileSync(available, 'utf8')) - 1}\n`);
    const parent = dirname(dirname(realpathSync(typeFolder)));
    const path = `${parent.slice(realpathSync(this.#root).length + 1)}/${uuid}`;
    this.file(`${path}/remove`, '');
    this.link(`${path}/driver`, this.sysfs.path('bus/mdev/drivers/vfio_mdev'));
    this.link(`${path}/mdev_type`, realpathSync(typeFolder));
    symlinkSync(join(this.#root, path), join(typeFolder, 'devices', uuid));
    this.link(`${path}/subsystem`, this.sysfs.path('bus/mdev'));
    this.link(`sys/bus/mdev/devices/${uuid}`, join(this.#root, path));
    this.#join(path, this.#nextMdevGroup++);
  }

  #removeMdev(path: string): void {
    const available = join(realpathSync(join(path, 'mdev_type')), 'available_instances');
    writeFileSync(available, `${Number(readFileSync(available, 'utf8')) + 1}\n`);
    unlinkSync(join(path, 'mdev_type/devices', basename(path)));
    const group = linkName(join(path, 'iommu_group'));
    rmSync(this.sysfs.path('kernel/iommu_groups', group ?? 'none'), { recursive: true });
    unlinkSync(this.sysfs.path('bus/mdev/devices', basename(path)));
    rmSync(path, { recursive: true });
  }

  [Symbol.dispose](): void {
    rmSync(this.#root, { recursive: true });
  }
}
