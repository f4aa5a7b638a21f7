/**
 * Two test cards as functions of one slot, and of one IOMMU group, under the kernel's own vfio-pci, which is told to reset neither
 * alone: a hot reset is of both.
 */
import { execFileSync } from 'node:child_process';
import { realpathSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { REG_ID, REG_SCRATCH, REGISTER_BAR } from '../devices/testcard/spec.js';
import { Scope } from '../sys/scope.js';
import { type HostDeviceFile, hostProvider } from '../vfio/host/index.js';
import { VFIO_TYPE1v2_IOMMU } from '../vfio/uapi.js';
import { runLoudly } from './command-line.js';
import type { VfioInterface } from './guests.js';
import { served, setResetMethod } from './host-card.js';
import { KernelTrace } from './kernel-trace.js';

const { LAB_PAIR: FIRST = '', LAB_SECOND: SECOND = '' } = process.env;
const PAIR = [FIRST, SECOND];
/** The built-in guest's verdict without a NIC that it knows: it ran, so the devices were attached. */
const RAN = 2;
const HOT_RESET = { symbol: 'vfio_pci_dev_set_hot_reset', arguments: {} } as const;

/** Both functions, open, and the hot reset of their slot by the first one. */
class OpenPair {
  readonly files: readonly HostDeviceFile[];
  readonly reset: () => void;

  constructor(scope: Scope, how: VfioInterface) {
    const provider = hostProvider();
    const devices = PAIR.map((address) => scope.own(provider.resolve(address, {})));
    if (how === 'group') {
      const container = scope.own(provider.groups.openContainer());
      const group = scope.own(provider.groups.openGroup(devices[0]?.group ?? -1));
      group.setContainer(container);
      container.setIommu(VFIO_TYPE1v2_IOMMU);
      this.files = devices.map(({ name }) => scope.own(group.getDeviceFd(name)) as HostDeviceFile);
      this.reset = () => this.files[0]?.pciHotReset([group]);
      return;
    }
    const iommufd = scope.own(provider.cdevs.openIommufd());
    this.files = devices.map(({ cdev }) => {
      const file = scope.own(provider.cdevs.openCdev(cdev ?? 'none'));
      file.bindIommufd(iommufd);
      return file as HostDeviceFile;
    });
    this.reset = () => this.files[0]?.pciHotReset([]);
  }

  /** The same register of each. */
  get(register: number): number[] {
    return this.files.map((file) => {
      const word = new Uint8Array(4);
      file.read(file.getRegionInfo(REGISTER_BAR).offset + register, word);
      return new DataView(word.buffer).getUint32(0, true);
    });
  }

  set(register: number, value: number): void {
    const word = new Uint8Array(Uint32Array.of(value).buffer);
    for (const file of this.files) file.write(file.getRegionInfo(REGISTER_BAR).offset + register, word);
  }
}

describe.skipIf(FIRST === '')('two cards of one slot', () => {
  let trace: KernelTrace;
  beforeAll(() => {
    execFileSync('vfio-load');
    execFileSync('vfio-bind', PAIR);
    for (const address of PAIR) setResetMethod(address, '');
    trace = new KernelTrace([HOT_RESET]);
  }, 60_000);
  afterAll(() => {
    trace?.[Symbol.dispose]();
    for (const address of PAIR) setResetMethod(address, 'default');
    execFileSync('vfio-unbind', PAIR);
  });

  test('have one IOMMU group', () => {
    const groups = PAIR.map((address) => realpathSync(`/sys/bus/pci/devices/${address}/iommu_group`));
    expect(groups[0]).toBe(groups[1]);
  });

  describe.each(['group', 'iommufd'] as const)('by %s', (how) => {
    test('lose what was in the registers of both by a hot reset of one, and work afterwards', () => {
      using scope = new Scope();
      const pair = new OpenPair(scope, how);
      const ids = pair.get(REG_ID);
      pair.set(REG_SCRATCH, 0x1234);
      expect(pair.get(REG_SCRATCH)).toEqual([0x1234, 0x1234]);
      expect(pair.files[0]?.getPciHotResetInfo().devices).toHaveLength(2);
      pair.reset();
      expect(pair.get(REG_SCRATCH)).toEqual([0, 0]);
      expect(pair.get(REG_ID)).toEqual(ids);
      pair.set(REG_SCRATCH, 0x5678);
      expect(pair.get(REG_SCRATCH)).toEqual([0x5678, 0x5678]);
    });

    test('are reset together for a machine that has both', () => {
      trace.clear();
      const args = PAIR.flatMap((address) => ['--device', `${address},interface=${how}`]);
      const { status, error, output } = runLoudly(args);
      expect([status, error], output).toEqual([RAN, '']);
      expect(trace.calls.length, output).toBeGreaterThan(0);
      expect(output).toContain('reset with its slot');
    });

    test('are left alone if one is pulled out: the other one still answers', () => {
      using scope = new Scope();
      const pair = new OpenPair(scope, how);
      const [, id] = pair.get(REG_ID);
      served('pair', 'fault', 'removed');
      try {
        expect(pair.get(REG_ID)).toEqual([0xffff_ffff, id]);
        pair.set(REG_SCRATCH, 0x99);
        expect(pair.get(REG_SCRATCH)[1]).toBe(0x99);
      } finally {
        served('pair', 'fault', 'none');
      }
      expect(pair.get(REG_ID)[0]).toBe(id);
    });
  });
});
