/** For tests: a host on which a NIC can be assigned in every respect, to be spoilt in one. */

import { type CheckDevice, type CheckRequest, checkHostDevices } from '../check/check.js';
import type { CheckReport, CheckResult, CheckRuleName } from '../check/finding.js';
import { FakeHost, FakeNodes } from './index.js';

export const NIC = '0000:01:00.0';
const RELEASE = '6.12.95-amd64';
export const GIB = 1n << 30n;
export const MIB = 2 ** 20;

export const limits = (soft: string | number, hard: string | number): string =>
  'Limit                     Soft Limit           Hard Limit           Units     \n' +
  `Max locked memory         ${String(soft).padEnd(21)}${String(hard).padEnd(21)}bytes     \n`;

/** Capabilities of root, and of an ordinary user. */
const CAPABILITIES = { root: '000001ffffffffff', user: '0000000000000000' } as const;

export const status = (
  who: keyof typeof CAPABILITIES,
  kib: { locked?: number; pinned?: number } = {},
): string =>
  `Name:\tnode\nUid:\t1000\t1000\t1000\t1000\nVmLck:\t${kib.locked ?? 0} kB\nVmPin:\t${kib.pinned ?? 0} kB\n` +
  `CapEff:\t${CAPABILITIES[who]}\n`;

export class CheckWorld implements Disposable {
  readonly host = FakeHost.create();
  readonly nodes = new FakeNodes();
  request: CheckRequest = {
    devices: [{ address: NIC }],
    memory: [{ base: 0n, bytes: GIB }],
    lockingProcess: '$$',
  };

  constructor() {
    const { host } = this;
    this.modules(['vfio', 'vfio_iommu_type1', 'vfio_pci', 'iommufd', 'kvm_intel']);
    host.file('sys/class/iommu/dmar0/intel-iommu/version', '1:0\n');
    host.file('proc/sys/kernel/osrelease', `${RELEASE}\n`);
    host.file('proc/self/limits', limits(8 * MIB, 8 * MIB));
    host.file('proc/self/status', status('root'));
    host.file('proc/self/uid_map', '         0          0 4294967295\n');
    host.file('proc/interrupts', '           CPU0\n  2:   0  IR-IO-APIC    2-edge      timer\n');
    host.file('proc/cmdline', 'root=/dev/sda1 intel_iommu=on\n');
    host.file('proc/cpuinfo', 'vendor_id\t: GenuineIntel\nflags\t\t: fpu vmx\n');
    this.misc('kvm', 'kvm', '10:232');
    this.misc('vfio', 'vfio/vfio', '10:196');
    this.misc('iommu', 'iommu', '10:127');
    this.addFunction(NIC, 26);
  }

  /** A PCI function with a group, a cdev and their files. */
  addFunction(address: string, group: number, driver: string | undefined = 'vfio-pci'): void {
    const cdev = `vfio${address.slice(5, 7)}${address.at(-1)}`;
    const isVfio = driver === 'vfio-pci';
    this.host.addPci({
      address,
      group,
      resetMethods: 'flr bus',
      ...(driver === undefined ? {} : { driver }),
      ...(isVfio ? { cdev } : {}),
      attributes: { power_state: 'D0\n', d3cold_allowed: '1\n' },
    });
    this.host.file(
      `sys/kernel/iommu_groups/${group}/reserved_regions`,
      '0x00000000fee00000 0x00000000feefffff msi\n',
    );
    if (!isVfio) return;
    this.host.file(`sys/class/vfio/${group}/dev`, `237:${group}\n`);
    this.nodes.add(this.dev(`vfio/${group}`), `237:${group}`);
    this.nodes.add(this.dev(`vfio/devices/${cdev}`), '511:0');
  }

  /** Functions behind a port, each in a group of its own: their only reset methods, by address. */
  addSlot(port: string, functions: Readonly<Record<string, string>>): void {
    const { host } = this;
    host.addPci({ address: port, driver: 'pcieport', group: 4, headerType: 1 });
    for (const [i, [short, methods]] of Object.entries(functions).entries()) {
      const address = `0000:${short}`;
      this.addFunction(address, 40 + i);
      host.file(`sys/devices/pci0000:00/${address}/reset_method`, `${methods}\n`);
      host.moveBelow(port, address);
    }
  }

  dev(name: string): string {
    return `${this.host.roots.dev}/${name}`;
  }

  /** A device of class misc, and its file. */
  misc(name: string, node: string, number: string): void {
    this.host.file(`sys/class/misc/${name}/dev`, `${number}\n`);
    this.nodes.add(this.dev(node), number);
  }

  /** The loaded modules; `others` could be. */
  modules(names: readonly string[], others: readonly string[] = []): void {
    for (const name of names) this.host.file(`sys/module/${name}/initstate`, 'live\n');
    const files = [...names, ...others].map((name) => `kernel/${name}.ko.xz:`);
    this.host.file(`modules/${RELEASE}/modules.dep`, files.join('\n'));
  }

  unload(...names: readonly string[]): void {
    for (const name of names) this.host.remove(`sys/module/${name}`);
  }

  /** The file of the NIC. */
  nic(name: string): string {
    return `sys/devices/pci0000:00/${NIC}/${name}`;
  }

  /** Other devices, or the same with options. */
  devices(...devices: readonly CheckDevice[]): void {
    this.request = { ...this.request, devices };
  }

  get parts() {
    return { roots: this.host.roots, sysfs: this.host.sysfs, probe: this.nodes };
  }

  check(): CheckReport {
    return checkHostDevices(this.request, this.parts);
  }

  /** What a rule found; paths are as on a real host. */
  find(rule: CheckRuleName): CheckResult | undefined {
    const found = this.check().results.find((result) => result.rule === rule);
    return found && (JSON.parse(this.#plain(JSON.stringify(found))) as CheckResult);
  }

  #plain(text: string): string {
    return text.replaceAll(this.host.roots.sys.slice(0, -'/sys'.length), '');
  }

  [Symbol.dispose](): void {
    this.host[Symbol.dispose]();
  }
}
