import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { KvmPointer } from '../driver.js';
import { settle } from '../testing/fake-clock.js';
import { RecordingListener } from '../testing/recording-listener.js';
import { type ModelContainer, type Outcome, ReferenceModel } from '../testing/reference-model.js';
import { ScriptedVm } from '../testing/scripted-kvm.js';
import { World, type WorldDevice } from '../testing/world.js';
import { Timeline } from '../timeline.js';
import { VFIO_TYPE1v2_IOMMU } from '../uapi.js';
import type { CoreContainerFile } from './container.js';
import type { CoreDeviceFile } from './device-file.js';
import { VFIO_GROUP_NOTIFY, VFIO_GROUP_NOTIFY_SET_KVM } from './group.js';
import type { CoreGroupFile } from './group-file.js';
import { HostDevice, IOMMU_GROUP_NOTIFY_ADD_DEVICE } from './iommu-group.js';
import { CoreIommufdFile } from './iommufd.js';

/** Histories in a test run; a nightly run asks for more. */
const RUNS = Number(process.env.TSVISOR_HISTORIES ?? 2_000);

const GROUP_OF = [0, 0, 1, 1, 2];
const GROUPS = 3;
const VMS = 2;
const LISTENERS = 3;
const CONTAINERS = 2;

const commands = [
  'register',
  'unregister',
  'openGroup',
  'closeGroup',
  'setContainer',
  'unsetContainer',
  'reopenContainer',
  'setIommu',
  'getDeviceFd',
  'closeDevice',
  'openCdev',
  'bind',
  'closeCdev',
  'setKvm',
  'registerListener',
  'unregisterListener',
  'bindHostDriver',
  'unbindHostDriver',
  'spuriousEvent',
] as const;
type Command = readonly [(typeof commands)[number], number, number];

const command: fc.Arbitrary<Command> = fc.tuple(fc.constantFrom(...commands), fc.nat(59), fc.nat(59));

/** Common beginnings, so that histories get far. */
const usual: fc.Arbitrary<readonly Command[]> = fc
  .tuple(fc.nat(4), fc.constantFrom('contain', 'open', 'cdev', 'listen'), fc.nat(2))
  .map(([device, how, listener]) => {
    const group = GROUP_OF[device] as number;
    const register: Command = ['register', device, 0];
    const contain: Command[] = [
      register,
      ['openGroup', group, 0],
      ['setContainer', group, 0],
      ['setIommu', 0, 0],
    ];
    switch (how) {
      case 'contain':
        return contain;
      case 'open':
        return [...contain, ['getDeviceFd', device, 0]];
      case 'listen':
        return [...contain, ['registerListener', group, listener], ['setKvm', group, listener]];
      default:
        return [register, ['closeGroup', group, 0], ['openCdev', device, 0], ['bind', device, 0]];
    }
  });
const histories = fc
  .array(fc.oneof({ arbitrary: command.map((one) => [one]), weight: 6 }, { arbitrary: usual, weight: 1 }), {
    maxLength: 40,
    size: 'max',
  })
  .map((parts) => parts.flat());

/** How often each command ended in which way, over all histories. */
const reached = new Map<string, number>();

/** Ways that random histories must come by, or they test nothing. */
const interesting = [
  'register',
  'openGroup',
  'openGroup EBUSY',
  'openGroup ENODEV',
  'setContainer',
  'setContainer EINVAL',
  'unsetContainer EBUSY',
  'getDeviceFd',
  'getDeviceFd EINVAL',
  'getDeviceFd ENODEV',
  'closeDevice',
  'bind',
  'bind EBUSY',
  'bind EINVAL',
  'setKvm',
  'registerListener',
  'registerListener EEXIST',
  'registerListener EINVAL',
  'unregisterListener',
  'unregisterListener ENOENT',
];

/** The core and the model, driven by the same commands. */
class Run {
  readonly world = new World();
  readonly model = new ReferenceModel(GROUP_OF, LISTENERS);
  readonly #iommuGroups = Array.from({ length: GROUPS }, () => this.world.iommuGroup());
  readonly #devices: readonly WorldDevice[] = GROUP_OF.map((group) =>
    this.world.prepare({ group: this.#iommuGroups[group] }),
  );
  readonly #neighbours: readonly HostDevice[] = this.#iommuGroups.map((group, i) => {
    const neighbour = new HostDevice(`0000:0${i}:1f.6`);
    this.world.core.run(group.addDevice(neighbour));
    return neighbour;
  });
  readonly #vms = Array.from({ length: VMS }, (_, i) => new ScriptedVm(`vm ${i}`));
  readonly #listeners = Array.from(
    { length: LISTENERS },
    (_, i) => new RecordingListener<KvmPointer | null>(`l${i}`),
  );
  readonly #groupFiles: (CoreGroupFile | undefined)[] = Array.from({ length: GROUPS }, () => undefined);
  readonly #containers: CoreContainerFile[] = [];
  readonly #modelContainers: ModelContainer[] = [];
  readonly #deviceFiles: CoreDeviceFile[][] = GROUP_OF.map(() => []);
  readonly #cdevs: (CoreDeviceFile | undefined)[] = GROUP_OF.map(() => undefined);
  readonly #iommufd = CoreIommufdFile.open(this.world.core.environment);
  #removals = 0;

  constructor() {
    for (const { dev } of this.#devices) dev.driver = undefined;
    for (let i = 0; i < CONTAINERS; i++) this.#newContainer(i);
  }

  #newContainer(i: number): void {
    this.#containers[i]?.[Symbol.dispose]();
    this.#containers[i] = this.world.openContainer();
    this.#modelContainers[i] = { hasIommu: false, groups: new Set() };
  }

  /** @throws if the core does something else than the model */
  async obey([what, x, y]: Command): Promise<void> {
    const outcome = this.#both(what, x, y);
    if (outcome !== undefined) {
      const key = outcome.model === undefined ? what : `${what} ${outcome.model}`;
      reached.set(key, (reached.get(key) ?? 0) + 1);
    }
    if (outcome !== undefined) expect(outcome.core, `${what} ${x} ${y}`).toBe(outcome.model);
    this.model.settle();
    if (this.#removals > 0) await settle();
    this.model.settle();
    this.#checkInvariants();
  }

  #code(body: () => unknown): Outcome {
    try {
      body();
      return undefined;
    } catch (error) {
      if (error instanceof Error && 'code' in error) return String(error.code);
      throw error;
    }
  }

  /** Undefined if the command makes no sense now. */
  #both(what: Command[0], x: number, y: number): { core: Outcome; model: Outcome } | undefined {
    const { core } = this.world;
    const d = x % GROUP_OF.length;
    const g = x % GROUPS;
    const device = this.#devices[d] as WorldDevice;
    const modelDevice = this.model.devices[d] as ReferenceModel['devices'][number];
    const group = this.model.groups[g] as ReferenceModel['groups'][number];
    const file = this.#groupFiles[g];
    const handle = group.isHandleOpen ? file : undefined;
    const c = y % CONTAINERS;
    switch (what) {
      case 'register':
        if (modelDevice.state !== 'gone') return undefined;
        modelDevice.state = 'registered';
        device.dev.driver = 'recording';
        return { core: this.#code(() => core.run(device.device.register())), model: undefined };
      case 'unregister':
        if (modelDevice.state !== 'registered') return undefined;
        modelDevice.state = 'leaving';
        this.#removals++;
        void core.start(`remove ${d}`, device.device.unregister()).then(() => {
          this.#removals--;
          core.run(device.dev.unbindDriver());
        });
        return undefined;
      case 'openGroup':
        return {
          core: this.#code(() => {
            this.#groupFiles[g] = this.world.openGroup((this.#iommuGroups[g] as { number: number }).number);
          }),
          model: this.model.openGroup(group),
        };
      case 'closeGroup':
        if (handle === undefined) return undefined;
        this.model.closeGroup(group);
        return { core: this.#code(() => handle[Symbol.dispose]()), model: undefined };
      case 'setContainer': {
        const container = this.#containers[c];
        const modelContainer = this.#modelContainers[c];
        if (handle === undefined || container === undefined || modelContainer === undefined) return undefined;
        return {
          core: this.#code(() => handle.setContainer(container)),
          model: this.model.setContainer(group, modelContainer),
        };
      }
      case 'unsetContainer':
        if (handle === undefined) return undefined;
        return { core: this.#code(() => handle.unsetContainer()), model: this.model.unsetContainer(group) };
      case 'reopenContainer':
        this.#newContainer(c);
        return undefined;
      case 'setIommu': {
        const modelContainer = this.#modelContainers[c];
        if (modelContainer === undefined) return undefined;
        return {
          core: this.#code(() => this.#containers[c]?.setIommu(VFIO_TYPE1v2_IOMMU)),
          model: this.model.setIommu(modelContainer),
        };
      }
      case 'getDeviceFd': {
        const own = this.#groupFiles[GROUP_OF[d] as number];
        if (own === undefined || !modelDevice.group.isHandleOpen) return undefined;
        return {
          core: this.#code(() =>
            this.#deviceFiles[d]?.push(core.run(own.getDeviceFdSteps(device.device.name))),
          ),
          model: this.model.getDeviceFd(modelDevice),
        };
      }
      case 'closeDevice': {
        const last = this.#deviceFiles[d]?.pop();
        if (last === undefined) return undefined;
        this.model.closeDevice(modelDevice);
        return { core: this.#code(() => last[Symbol.dispose]()), model: undefined };
      }
      case 'openCdev':
        if (modelDevice.cdev !== 'closed') return undefined;
        return {
          core: this.#code(() => {
            const node = modelDevice.state === 'gone' ? 'vfio99' : device.device.cdev;
            this.#cdevs[d] = this.world.openCdev(node);
          }),
          model: this.model.openCdev(modelDevice),
        };
      case 'bind': {
        const cdev = this.#cdevs[d];
        if (cdev === undefined) return undefined;
        return {
          core: this.#code(() => cdev.bindIommufd(this.#iommufd)),
          model: this.model.bind(modelDevice),
        };
      }
      case 'closeCdev': {
        const cdev = this.#cdevs[d];
        if (cdev === undefined) return undefined;
        this.#cdevs[d] = undefined;
        modelDevice.cdev = 'closed';
        return { core: this.#code(() => cdev[Symbol.dispose]()), model: undefined };
      }
      case 'setKvm': {
        if (file === undefined) return undefined;
        const vm = y % (VMS + 1);
        this.model.setKvm(group, vm === VMS ? undefined : vm);
        return {
          core: this.#code(() => core.vfioFileOps.setKvm(file, this.#vms[vm] ?? null)),
          model: undefined,
        };
      }
      case 'registerListener':
      case 'unregisterListener': {
        const l = y % LISTENERS;
        const listener = this.#listeners[l] as RecordingListener<KvmPointer | null>;
        const index = GROUP_OF.findIndex((of, i) => of === g && this.model.devices[i]?.state !== 'gone');
        const through = this.#devices[index]?.device;
        if (through === undefined) return undefined;
        if (what === 'unregisterListener') {
          return {
            core: this.#code(() => core.run(through.unregisterNotifier(VFIO_GROUP_NOTIFY, listener))),
            model: this.model.unregisterListener(group, l),
          };
        }
        const events = { mask: VFIO_GROUP_NOTIFY_SET_KVM };
        return {
          core: this.#code(() => core.run(through.registerNotifier(VFIO_GROUP_NOTIFY, events, listener))),
          model: this.model.registerListener(group, l),
        };
      }
      case 'bindHostDriver':
      case 'unbindHostDriver': {
        const neighbour = this.#neighbours[g] as HostDevice;
        group.isIntruded = what === 'bindHostDriver';
        const steps = group.isIntruded ? neighbour.bindDriver('e1000e') : neighbour.unbindDriver();
        return { core: this.#code(() => core.run(steps)), model: undefined };
      }
      case 'spuriousEvent': {
        const event = IOMMU_GROUP_NOTIFY_ADD_DEVICE + (y % 5);
        const neighbour = this.#neighbours[g] as HostDevice;
        const notify = this.#iommuGroups[g]?.notify(event, neighbour);
        return { core: this.#code(() => notify !== undefined && core.run(notify)), model: undefined };
      }
    }
  }

  #checkInvariants(): void {
    const { registry } = this.world.core;
    const lines: [unknown, unknown, string][] = [];
    for (const [g, expected] of this.model.groups.entries()) {
      const number = this.#iommuGroups[g]?.number ?? -1;
      const group = registry.groups.get(number);
      lines.push([group !== undefined, this.model.exists(expected), `group ${g} exists`]);
      if (group === undefined) continue;
      lines.push([group.containerUsers, this.model.users(expected), `container users of group ${g}`]);
      const kvm = expected.kvm === undefined ? null : this.#vms[expected.kvm];
      lines.push([group.kvm, kvm, `VM of group ${g}`]);
      const names = group.notifier.blocks.map(({ name }) => name).join();
      lines.push([names, expected.listeners.map((l) => `l${l}`).join(), `listeners of group ${g}`]);
      lines.push([group.isViable(), !expected.isIntruded, `group ${g} is viable`]);
    }
    for (const [d, expected] of this.model.devices.entries()) {
      const { device, ops } = this.#devices[d] as WorldDevice;
      const files = expected.opens + (expected.cdev === 'closed' ? 0 : 1);
      const isOpen = expected.opens > 0 || expected.cdev === 'bound';
      lines.push([device.isRegistered, expected.state !== 'gone', `device ${d} is registered`]);
      const own = expected.state === 'registered' ? 1 : 0;
      lines.push([device.registration.count, own + files, `registration of device ${d}`]);
      lines.push([ops.isOpen, isOpen, `device ${d} is open`]);
      lines.push([
        device.openCount,
        expected.cdev === 'bound' ? 1 : expected.opens,
        `open count of device ${d}`,
      ]);
      lines.push([
        device.kvm,
        expected.kvm === undefined ? undefined : this.#vms[expected.kvm],
        `VM of device ${d}`,
      ]);
    }
    for (const [v, vm] of this.#vms.entries()) {
      const holders = this.model.devices.filter(({ kvm }) => kvm === v).length;
      lines.push([vm.references, 1 + holders, `references of VM ${v}`]);
    }
    for (const [l, listener] of this.#listeners.entries()) {
      const heard = listener.heard.map((vm) => (vm === null ? null : this.#vms.indexOf(vm as ScriptedVm)));
      lines.push([JSON.stringify(heard), JSON.stringify(this.model.heard[l]), `what listener ${l} heard`]);
    }
    for (const { ops } of this.#devices) lines.push([ops.misuse.join(), '', `calls of ${ops.name}`]);
    for (const [actual, wanted, what] of lines) if (actual !== wanted) expect(actual, what).toBe(wanted);
  }

  /** Closes and removes everything: nothing may be left. */
  async end(): Promise<void> {
    for (const [d] of GROUP_OF.entries()) {
      while ((this.#deviceFiles[d]?.length ?? 0) > 0) await this.obey(['closeDevice', d, 0]);
      await this.obey(['closeCdev', d, 0]);
    }
    for (let g = 0; g < GROUPS; g++) {
      await this.obey(['setKvm', g, VMS]);
      await this.obey(['closeGroup', g, 0]);
    }
    for (const [d] of GROUP_OF.entries()) await this.obey(['unregister', d, 0]);
    await settle();
    this.#iommufd[Symbol.dispose]();
    for (const container of this.#containers) container[Symbol.dispose]();
    expect(this.#removals).toBe(0);
    for (const vm of this.#vms) expect([vm.references, vm.usesAfterFree]).toEqual([1, []]);
    const expected = /added to live group|isolation is lost|with listener|with listeners|Device is currently/;
    expect(this.world.leftovers().filter((text) => !expected.test(text))).toEqual([]);
  }
}

test(`in ${RUNS} random histories the core does what a small model says, and nothing is left in the end`, async () => {
  let steps = 0;
  await fc.assert(
    fc.asyncProperty(histories, async (history) => {
      try {
        const run = new Run();
        for (const each of history) await run.obey(each);
        await run.end();
        steps += history.length;
      } catch (error) {
        throw new Error(`${String(error)}\n${await timelineOf(history)}`, { cause: error });
      }
    }),
    { numRuns: RUNS },
  );
  expect(steps).toBeGreaterThan(RUNS * 5);
  if (RUNS >= 1_000) expect(interesting.filter((way) => (reached.get(way) ?? 0) < RUNS / 100)).toEqual([]);
}, 600_000);

/** The same history again, with its events. */
async function timelineOf(history: readonly Command[]): Promise<string> {
  using timeline = Timeline.start(() => 0);
  try {
    const run = new Run();
    for (const each of history) await run.obey(each);
    await run.end();
  } catch {
    // It is what is wanted.
  }
  return timeline.toText();
}
