/**
 * The rules of the VFIO uAPI as a table of cases. Every provider must pass them, the in-process core as well as the
 * Linux kernel. A case closes every file that it opens, and restores the device's state.
 */
import assert from 'node:assert/strict';
import { isErrno } from '../../sys/error.js';
import { Scope } from '../../sys/scope.js';
import { groupsOf } from '../interfaces.js';
import {
  type DeviceFile,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_DATA_BOOL,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_IRQ_SET_DATA_NONE,
  VFIO_REGION_INFO_FLAG_MMAP,
  VFIO_REGION_INFO_FLAG_READ,
} from '../uapi.js';
import { Bench, type Code, type ConformanceTarget, fails, type Rule } from './conformance-bench.js';
import { cdevRules } from './conformance-cdevs.js';
import { featureRules } from './conformance-features.js';
import { groupRules } from './conformance-groups.js';
import { hotResetCdevRules, hotResetGroupRules } from './conformance-hot-reset.js';

export type { ConformanceTarget } from './conformance-bench.js';

/** One rule: a sentence that can be false, and the check that it is true. */
export interface ConformanceCase {
  /** The rule as a sentence. */
  readonly name: string;
  /** @throws AssertionError */
  run(): void;
}

const deviceRules: readonly Rule[] = [
  [
    'regions and interrupts are counted, and an index past the last is EINVAL',
    (bench) => {
      const file = bench.file();
      const { numRegions, numIrqs } = file.getInfo();
      for (let i = 0; i < numRegions; i++) {
        // The VGA region is the only one below the last that a device may lack.
        if (i < 8) assert.equal(file.getRegionInfo(i).index, i);
      }
      for (const index of [numRegions, 9999])
        fails('EINVAL', `region ${index}`, () => file.getRegionInfo(index));
      for (const index of [numIrqs, 9999]) fails('EINVAL', `irq ${index}`, () => file.getIrqInfo(index));
    },
  ],
  [
    'regions lie apart in the device file',
    (bench) => {
      const file = bench.file();
      const regions = Array.from({ length: Math.min(file.getInfo().numRegions, 8) }, (_, i) =>
        file.getRegionInfo(i),
      );
      const used = regions.filter(({ size }) => size > 0).sort((a, b) => a.offset - b.offset);
      for (const [i, { offset, size }] of used.entries()) {
        const next = used[i + 1];
        if (next !== undefined) assert.ok(offset + size <= next.offset);
      }
    },
  ],
  [
    // Drivers differ on a read across the end: vfio-pci fails it, the core truncates it, mtty completes it.
    'the last bytes of a region can be read, and a read across its end fails only as a bad address',
    (bench) => {
      const file = bench.file();
      const config = file.getRegionInfo(Math.min(7, file.getInfo().numRegions - 1));
      assert.notEqual(config.flags & VFIO_REGION_INFO_FLAG_READ, 0);
      const data = new Uint8Array(8);
      assert.equal(file.read(config.offset, data.subarray(0, 4)), 4);
      assert.equal(file.read(config.offset + config.size - 4, data.subarray(0, 4)), 4);
      try {
        assert.ok(file.read(config.offset + config.size - 4, data) >= 4);
      } catch (error) {
        assert.ok(isErrno(error, 'EINVAL') || isErrno(error, 'EFAULT'), String(error));
      }
    },
  ],
  [
    'a region without MMAP cannot be mapped',
    (bench) => {
      const file = bench.file();
      for (let i = 0; i < Math.min(file.getInfo().numRegions, 8); i++) {
        const { flags, size, offset } = file.getRegionInfo(i);
        if (size === 0 || (flags & VFIO_REGION_INFO_FLAG_MMAP) !== 0) continue;
        fails(['EINVAL', 'ENODEV' as Code], `region ${i}`, () => file.mmap(offset, 4096)[Symbol.dispose]());
      }
    },
  ],
  [
    'SET_IRQS that does not fit its index is EINVAL',
    (bench) => {
      const file = bench.file();
      const { numIrqs } = file.getInfo();
      const trigger = VFIO_IRQ_SET_ACTION_TRIGGER;
      const none = VFIO_IRQ_SET_DATA_NONE | trigger;
      fails('EINVAL', 'no such index', () =>
        file.setIrqs({ index: numIrqs, flags: none, start: 0, count: 1 }),
      );
      for (let index = 0; index < numIrqs; index++) {
        const { count } = infoOrNone(file, index);
        if (count === 0) continue;
        const one = { index, flags: none, start: 0, count: 1 };
        fails('EINVAL', 'start', () => file.setIrqs({ ...one, start: count }));
        fails('EINVAL', 'count', () => file.setIrqs({ ...one, count: count + 1 }));
        fails('EINVAL', 'both', () => file.setIrqs({ ...one, start: 1, count: 0xffff_ffff }));
        fails('EINVAL', 'flags', () => file.setIrqs({ ...one, flags: none | 0x80 }));
        fails('EINVAL', 'no data type', () => file.setIrqs({ ...one, flags: trigger }));
        const two = VFIO_IRQ_SET_DATA_BOOL | VFIO_IRQ_SET_DATA_EVENTFD | trigger;
        fails('EINVAL', 'two data types', () => file.setIrqs({ ...one, flags: two, data: [1] }));
      }
    },
  ],
];

const bothRules: readonly Rule[] = [
  [
    'an open group keeps the cdev from being bound, and a bound cdev the group from being opened',
    (bench) => {
      const { cdev } = bench.cdev();
      const iommufd = bench.iommufd();
      const group = groupsOf(bench.provider).openGroup(bench.device.group);
      fails('EBUSY', 'BIND', () => cdev.bindIommufd(iommufd));
      group[Symbol.dispose]();
      cdev.bindIommufd(iommufd);
      fails('EBUSY', 'open', () => bench.group());
    },
  ],
];

/** The rules that apply to a provider: `for (const { name, run } of vfioConformance(target)) test(name, run)`. */
export function vfioConformance(target: ConformanceTarget): readonly ConformanceCase[] {
  const { hasGroups = true, hasCdev = true } = target;
  const rules = [
    ...(hasGroups ? [...groupRules, ...hotResetGroupRules] : []),
    ...deviceRules,
    ...featureRules,
    ...(hasCdev ? [...cdevRules, ...hotResetCdevRules] : []),
    ...(hasGroups && hasCdev ? bothRules : []),
  ];
  return rules.map(([name, run]) => ({
    name,
    run() {
      using scope = new Scope();
      run(new Bench(target, scope));
    },
  }));
}

function infoOrNone(file: DeviceFile, index: number): { readonly count: number } {
  try {
    return file.getIrqInfo(index);
  } catch {
    return { count: 0 }; // the device lacks the index, such as a conventional PCI device the error interrupt
  }
}
