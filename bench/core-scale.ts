/** Cost of the VFIO core's operations as the number of devices, listeners and DMA maps grows. Needs no /dev/kvm. */
import { performance } from 'node:perf_hooks';
import { iova } from '../sys/address.js';
import { Mapping } from '../sys/mapping.js';
import type { CoreContainerFile } from '../vfio/core/container.js';
import type { CoreDeviceFile } from '../vfio/core/device-file.js';
import { DMA_ENTRY_LIMIT } from '../vfio/core/dma-space.js';
import type { CoreGroupFile } from '../vfio/core/group-file.js';
import {
  type KvmPointer,
  VFIO_DMA_MAP_FLAG_READ,
  VFIO_DMA_MAP_FLAG_WRITE,
  VFIO_DMA_UNMAP_FLAG_ALL,
  VFIO_GROUP_NOTIFY,
  VFIO_GROUP_NOTIFY_SET_KVM,
  VFIO_TYPE1v2_IOMMU,
} from '../vfio/index.js';
import { RecordingListener, ScriptedVm, World, type WorldDevice } from '../vfio/testing/index.js';
import { median } from './measure.js';
import type { Report } from './report.js';

const ROUNDS = 5;
const DEVICES = [625, 1_250, 2_500, 5_000, 10_000];
const ALL_DEVICES = 10_000;
const DEVICES_PER_GROUP = 2;
const LISTENERS = [10, 100, 1_000];
const MAPS = [1_000, 8_000, DMA_ENTRY_LIMIT];
const LOOKUPS = 50_000;
const PAGE = 4096;

/** Operations in order. Each returns the number of calls it made. */
type Phases = Readonly<Record<string, () => number>>;

/** Deterministic pseudo-random numbers. */
function* randomNumbers(below: number): Generator<number, never> {
  for (let state = 1; ; ) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    yield Math.floor((state / 2 ** 32) * below);
  }
}

function shuffled<T>(items: readonly T[]): T[] {
  const out = [...items];
  const random = randomNumbers(1 << 30);
  for (let i = out.length - 1; i > 0; i--) {
    const j = random.next().value % (i + 1);
    [out[i], out[j]] = [out[j] as T, out[i] as T];
  }
  return out;
}

/**
 * Registers devices, associates them with VMs, and unregisters them. @param groupsPerVm groups that share a VM and a
 * container
 */
function life(count: number, groupsPerVm: number): Phases {
  const world = new World();
  const { core } = world;
  const devices: WorldDevice[] = [];
  for (let i = 0; i < count / DEVICES_PER_GROUP; i++) {
    const group = world.iommuGroup();
    for (let j = 0; j < DEVICES_PER_GROUP; j++) devices.push(world.prepare({ group, regions: [] }));
  }
  const anyOrder = shuffled(devices);
  const groups: CoreGroupFile[] = [];
  const containers: CoreContainerFile[] = [];
  const files: CoreDeviceFile[] = [];
  const vms = Array.from({ length: Math.ceil(count / groupsPerVm) }, () => new ScriptedVm());
  return {
    register() {
      for (const { device } of devices) core.run(device.register());
      return count;
    },
    'unregister and register, in any order'() {
      for (const { device } of anyOrder) {
        core.run(device.unregister());
        core.run(device.register());
      }
      return count;
    },
    'open group, put into container'() {
      for (let i = 0; i < count; i += DEVICES_PER_GROUP) {
        const group = world.openGroup((devices[i] as WorldDevice).device.group.number);
        const isFirst = groups.length % groupsPerVm === 0;
        if (isFirst) containers.push(world.openContainer());
        const container = containers.at(-1) as CoreContainerFile;
        group.setContainer(container);
        if (isFirst) container.setIommu(VFIO_TYPE1v2_IOMMU);
        groups.push(group);
      }
      return groups.length;
    },
    'set_kvm(vm)'() {
      for (const [i, group] of groups.entries()) {
        core.vfioFileOps.setKvm(group, vms[Math.floor(i / groupsPerVm)] as ScriptedVm);
      }
      return groups.length;
    },
    'open device'() {
      for (const [i, { device }] of devices.entries()) {
        const group = groups[Math.floor(i / DEVICES_PER_GROUP)] as CoreGroupFile;
        files.push(core.run(group.getDeviceFdSteps(device.name)));
      }
      return count;
    },
    'set_kvm(null)'() {
      for (const group of groups) core.vfioFileOps.setKvm(group, null);
      return groups.length;
    },
    'close device'() {
      for (const file of files) file[Symbol.dispose]();
      return count;
    },
    'close group and container'() {
      for (const group of groups) group[Symbol.dispose]();
      for (const container of containers) container[Symbol.dispose]();
      return groups.length;
    },
    unregister() {
      world.remove(...devices);
      world.end();
      return count;
    },
  };
}

function listening(count: number): Phases {
  const world = new World();
  const made = world.device();
  const contained = world.contain(made);
  const vm = new ScriptedVm();
  const listeners = Array.from(
    { length: count },
    (_, i) => new RecordingListener<KvmPointer | null>(`listener ${i}`),
  );
  return {
    'register, with the replay'() {
      world.core.vfioFileOps.setKvm(contained.group, vm);
      for (const listener of listeners) {
        const events = { mask: VFIO_GROUP_NOTIFY_SET_KVM };
        world.core.run(made.device.registerNotifier(VFIO_GROUP_NOTIFY, events, listener));
      }
      return count;
    },
    'SET_KVM, per listener'() {
      world.core.vfioFileOps.setKvm(contained.group, null);
      return count;
    },
    unregister() {
      for (const listener of listeners) {
        world.core.run(made.device.unregisterNotifier(VFIO_GROUP_NOTIFY, listener));
      }
      if (listeners.some(({ heard }) => heard.length !== 2)) throw new Error('a listener missed an event');
      contained.close();
      world.remove(made);
      world.end();
      return count;
    },
  };
}

/** One-page maps, each followed by an unmapped page. */
const nthMap = (n: number) => iova(BigInt(n) * BigInt(2 * PAGE));

function mapping(count: number): Phases {
  const memory = Mapping.anonymous(PAGE);
  const world = new World();
  const made = world.device();
  const contained = world.contain(made);
  const { container } = contained;
  const file = world.open(contained, made);
  const upwards = Array.from({ length: count }, (_, i) => i);
  const anyOrder = shuffled(upwards);
  const random = randomNumbers(count);
  const places = Array.from({ length: LOOKUPS }, () => nthMap(random.next().value));
  const data = new Uint8Array(8);
  const flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
  const size = BigInt(PAGE);
  const map = (order: readonly number[]) => {
    for (const n of order) container.mapDma({ flags, iova: nthMap(n), vaddr: memory.hva, size });
    return count;
  };
  return {
    'map, upwards': () => map(upwards),
    'rw of 8 bytes, anywhere'() {
      for (const place of places) made.device.dma.rw(place, data, false);
      return LOOKUPS;
    },
    'unmap, all at once'() {
      container.unmapDma({ flags: VFIO_DMA_UNMAP_FLAG_ALL, iova: iova(0n), size: 0n });
      return count;
    },
    'map, in any order': () => map(anyOrder),
    'unmap, in any order'() {
      for (const n of anyOrder) container.unmapDma({ flags: 0, iova: nthMap(n), size });
      file[Symbol.dispose]();
      contained.close();
      world.remove(made);
      world.end();
      memory[Symbol.dispose]();
      return count;
    },
  };
}

/** Microseconds per call of each operation, with `copies` instances alive at the same time. */
function timed(begin: () => Phases, copies: number): Record<string, number> {
  const all = Array.from({ length: copies }, begin);
  const each: Record<string, number> = {};
  for (const operation of Object.keys(all[0] ?? {})) {
    const begun = performance.now();
    const calls = all.reduce((sum, phases) => sum + (phases[operation]?.() ?? 0), 0);
    each[operation] = ((performance.now() - begun) * 1000) / calls;
  }
  return each;
}

/** Slope of log(total) over log(size), by least squares: 1 if the cost of a call does not depend on the size. */
function slope(sizes: readonly number[], perCall: readonly number[]): number {
  const x = sizes.map(Math.log);
  const y = perCall.map((cost, i) => Math.log(cost * (sizes[i] as number)));
  const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const [meanX, meanY] = [mean(x), mean(y)];
  const covariance = x.reduce((sum, value, i) => sum + (value - meanX) * ((y[i] as number) - meanY), 0);
  return covariance / x.reduce((sum, value) => sum + (value - meanX) ** 2, 0);
}

function printRow(report: Report, name: string, columns: readonly string[]): void {
  report.line(`  ${name.padEnd(40)}${columns.map((column) => column.padStart(8)).join('')}`);
}

/**
 * Prints medians of several rounds, in microseconds per call. Each round runs every size, so that noise affects all of
 * them.
 */
function printCosts(
  report: Report,
  title: string,
  sizes: readonly number[],
  measure: (size: number) => Readonly<Record<string, number>>,
): void {
  const rounds = Array.from({ length: ROUNDS }, () => sizes.map(measure));
  printRow(report, title, [...sizes.map(String), 'slope']);
  for (const operation of Object.keys(rounds[0]?.[0] ?? {})) {
    const costs = sizes.map((_, i) => median(rounds.map((round) => round[i]?.[operation] ?? 0)));
    for (const [i, value] of costs.entries())
      report.add({
        benchmark: 'core-scale',
        name: `${title}: ${operation}, ${sizes[i]}`,
        unit: 'us',
        value,
      });
    printRow(report, `  ${operation}`, [
      ...costs.map((cost) => cost.toFixed(2)),
      slope(sizes, costs).toFixed(2),
    ]);
  }
}

/**
 * Each size is measured with 10,000 devices in memory: in 16 cores of 625, 8 of 1,250 and so on. With fewer, the heap's
 * young generation never fills up and small cores seem cheaper, which would measure the garbage collector instead of
 * the core.
 */
function printLives(report: Report, title: string, groupsPerVm: number): void {
  printCosts(report, title, DEVICES, (size) => timed(() => life(size, groupsPerVm), ALL_DEVICES / size));
}

export async function coreScale(report: Report): Promise<void> {
  timed(() => life(1_000, 8), 1);
  printLives(report, 'devices; 8 groups a VM', 8);
  printLives(report, 'devices; one VM has them all', ALL_DEVICES);
  printCosts(report, 'listeners on one group', LISTENERS, (size) =>
    timed(() => listening(size), 1_000 / size),
  );
  printCosts(report, 'DMA maps', MAPS, (size) => timed(() => mapping(size), 1));
}
