import fc from 'fast-check';
import { expect, test } from 'vitest';
import { SysError } from '../../sys/error.js';
import type { KvmPointer } from '../driver.js';
import { RecordingListener } from '../testing/recording-listener.js';
import { Scheduler } from '../testing/scheduler.js';
import { ScriptedVm } from '../testing/scripted-kvm.js';
import { World } from '../testing/world.js';
import type { VfioDevice } from './device.js';
import type { CoreDeviceFile } from './device-file.js';
import { VFIO_GROUP_NOTIFY, VFIO_GROUP_NOTIFY_SET_KVM } from './group.js';
import { HostDevice, IOMMU_GROUP_NOTIFY_ADD_DEVICE } from './iommu-group.js';
import { CoreIommufdFile } from './iommufd.js';
import type { Steps } from './steps.js';

/** Interleavings in a test run; a nightly run asks for more. */
const RUNS = Number(process.env.TSVISOR_HISTORIES ?? 2_000);

const actions = [
  'open',
  'setKvm',
  'unsetKvm',
  'listen',
  'listenToRelease',
  'recontain',
  'bind',
  'event',
  'remove',
] as const;
type Action = (typeof actions)[number];

/** Runs a step that the kernel may refuse. Whatever is refused must be refused with an errno. */
function* refusable<T>(steps: Steps<T>): Steps<T | undefined> {
  try {
    return yield* steps;
  } catch (error) {
    if (error instanceof SysError) return undefined;
    throw error;
  }
}

test(`in ${RUNS} random interleavings of tasks nothing deadlocks, no order of locks contradicts another, and all counts balance`, () => {
  fc.assert(
    fc.property(
      fc.array(fc.array(fc.constantFrom(...actions), { minLength: 1, maxLength: 3 }), {
        minLength: 2,
        maxLength: 4,
      }),
      fc.infiniteStream(fc.nat(11)),
      (tasks, choices) => {
        const world = new World();
        const { core } = world;
        const iommuGroup = world.iommuGroup();
        const made = [world.device({ group: iommuGroup }), world.device({ group: iommuGroup })] as const;
        const [{ device }] = made;
        const contained = world.contain(made[0]);
        const iommufd = CoreIommufdFile.open(core.environment);
        const vms = [new ScriptedVm('0'), new ScriptedVm('1')];
        const scheduler = new Scheduler(core.environment.executor);
        let isRemoved = false;
        const watch = new RecordingListener<KvmPointer | null>('watch');
        core.run(
          made[1].device.registerNotifier(VFIO_GROUP_NOTIFY, { mask: VFIO_GROUP_NOTIFY_SET_KVM }, watch),
        );

        const take: Readonly<Record<Action, (of: number) => Steps<unknown>>> = {
          *open() {
            const file: CoreDeviceFile | undefined = yield* refusable(
              contained.group.getDeviceFdSteps(device.name),
            );
            if (file !== undefined) expect(device.group.container?.backend).toBeDefined();
            yield 'in use';
            if (file !== undefined) yield* file.closeSteps();
          },
          setKvm: (of) => contained.group.setKvmSteps(vms[of % 2] ?? null),
          unsetKvm: () => contained.group.setKvmSteps(null),
          *listen(of) {
            const listener = new RecordingListener<KvmPointer | null>(
              `task ${of}`,
              function* (): Steps<void> {
                yield 'inside the listener';
              },
            );
            const events = { mask: VFIO_GROUP_NOTIFY_SET_KVM };
            yield* refusable(made[1].device.registerNotifier(VFIO_GROUP_NOTIFY, events, listener));
            yield 'listening';
            yield* refusable(made[1].device.unregisterNotifier(VFIO_GROUP_NOTIFY, listener));
          },
          *listenToRelease(of) {
            const listener = new RecordingListener<VfioDevice>(`task ${of}`, function* (): Steps<void> {
              yield 'inside the release';
            });
            yield* refusable(made[1].device.registerDeviceNotifier(listener));
            yield 'listening';
            yield* refusable(made[1].device.unregisterDeviceNotifier(listener));
          },
          *recontain() {
            yield* refusable(contained.group.unsetContainerSteps());
            yield 'without a container';
            yield* refusable(contained.group.setContainerSteps(contained.container));
            yield* refusable(contained.container.setIommuSteps(3));
          },
          *bind() {
            const cdev = world.openCdev(made[1].device.cdev);
            yield* refusable(cdev.bindIommufdSteps(iommufd));
            yield* cdev.closeSteps();
          },
          event: (of) =>
            iommuGroup.notify(IOMMU_GROUP_NOTIFY_ADD_DEVICE + (of % 6), new HostDevice(`spurious ${of}`)),
          *remove() {
            if (isRemoved) return;
            isRemoved = true;
            yield* device.unregister();
          },
        };
        for (const [of, list] of tasks.entries()) {
          scheduler.spawn(
            `task ${of}`,
            (function* (): Steps<void> {
              for (const action of list) yield* take[action](of);
            })(),
          );
        }
        const spawned = scheduler.tasks;
        scheduler.runAll(
          (runnable) => runnable[(choices.next().value ?? 0) % runnable.length] ?? (runnable[0] as never),
        );
        for (const { error } of spawned) if (error !== undefined) throw error;
        expect(watch.heard.at(-1) ?? null).toBe(made[1].device.group.kvm);
        core.run(made[1].device.unregisterNotifier(VFIO_GROUP_NOTIFY, watch));
        core.run(contained.group.setKvmSteps(null));
        contained.close();
        iommufd[Symbol.dispose]();
        world.remove(...(isRemoved ? made.slice(1) : made));
        expect(world.leftovers().filter((text) => !/added to live group/.test(text))).toEqual([]);
        expect(vms.map(({ references, usesAfterFree }) => [references, usesAfterFree])).toEqual([
          [1, []],
          [1, []],
        ]);
        for (const { ops } of made) expect([ops.isOpen, ops.misuse]).toEqual([false, []]);
      },
    ),
    { numRuns: RUNS },
  );
}, 600_000);
