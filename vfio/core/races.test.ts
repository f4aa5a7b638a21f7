/**
 * The races for which Linux gave up the SET_KVM notifier, each on a small copy of the code that had it, where the
 * scheduler finds it, and on the core, where no interleaving shows it.
 */
import { expect, test } from 'vitest';
import type { KvmPointer } from '../driver.js';
import { RecordingListener } from '../testing/recording-listener.js';
import { everyInterleaving, Scheduler } from '../testing/scheduler.js';
import { ScriptedVm } from '../testing/scripted-kvm.js';
import { type Contained, World, type WorldDevice } from '../testing/world.js';
import type { CoreOpenDevice } from './device.js';
import type { CoreDeviceFile } from './device-file.js';
import { VFIO_GROUP_NOTIFY, VFIO_GROUP_NOTIFY_SET_KVM } from './group.js';
import { Mutex } from './locks.js';
import type { Steps } from './steps.js';

type Kvm = KvmPointer | null;

/** One device and the group:VM association, as much of it as the races need. */
interface Association {
  readonly world: World;
  setKvm(kvm: Kvm): Steps<void>;
  /** GET_DEVICE_FD. */
  open(): Steps<void>;
  /** The last close of the device. */
  close(): Steps<void>;
  /** Closes what is left; nothing may be left over then. */
  end(): void;
}

/** What the driver does in its open, and when it is told of a VM. */
interface Driver {
  readonly onOpen?: (kvm: Kvm) => Steps<void>;
  readonly onSetKvm?: (kvm: Kvm) => void;
}

function coreAssociation(driver: Driver = {}, world = new World()): Association {
  const listener = new RecordingListener<Kvm>('driver', (_event, kvm) => driver.onSetKvm?.(kvm));
  const made: WorldDevice = world.device({
    *onOpen({ device, kvm }: CoreOpenDevice): Steps<void> {
      yield* device.registerNotifier(VFIO_GROUP_NOTIFY, { mask: VFIO_GROUP_NOTIFY_SET_KVM }, listener);
      if (driver.onOpen !== undefined) yield* driver.onOpen(kvm ?? null);
    },
    onClose: () => made.device.unregisterNotifier(VFIO_GROUP_NOTIFY, listener),
  });
  const contained: Contained = world.contain(made);
  let file: CoreDeviceFile | undefined;
  return {
    world,
    setKvm: (kvm) => contained.group.setKvmSteps(kvm),
    *open() {
      file = yield* contained.group.getDeviceFdSteps(made.device.name);
    },
    *close() {
      yield* file?.closeSteps() ?? nothing();
    },
    end() {
      file?.[Symbol.dispose]();
      world.core.run(contained.group.setKvmSteps(null));
      contained.close();
      world.remove(made);
      world.end();
    },
  };
}

const nothing = function* (): Steps<void> {};

function broken(
  of: (world: World, lock: Mutex) => Pick<Association, 'setKvm' | 'open' | 'close'>,
): Association {
  const world = new World();
  return {
    world,
    ...of(world, new Mutex(world.core.environment, 'group->group_rwsem')),
    end: () => undefined,
  };
}

type Tasks = Readonly<Record<string, Steps<unknown>>>;

/** Runs a race in every interleaving. @returns how many there were @throws Error naming the first that fails */
function race(begin: () => { association: Association; tasks: Tasks; check: () => void }): number {
  return everyInterleaving(() => {
    const { association, tasks, check } = begin();
    const scheduler = new Scheduler(association.world.core.environment.executor);
    const spawned = Object.entries(tasks).map(([name, steps]) => scheduler.spawn(name, steps));
    return {
      scheduler,
      check() {
        for (const task of spawned) if (task.error !== undefined) throw task.error;
        check();
        association.end();
      },
    };
  }, 3);
}

function* inOrder(...steps: readonly (Steps<unknown> | (() => void))[]): Steps<void> {
  for (const step of steps) {
    if (typeof step === 'function') step();
    else yield* step;
  }
}

// 1. KVM_DEV_VFIO_GROUP_DEL against VFIO_GROUP_GET_DEVICE_FD: the cache is read, the VM goes, a reference is taken.

function delAgainstGet(make: () => Association): number {
  return race(() => {
    const association = make();
    const vm = new ScriptedVm();
    association.world.core.run(association.setKvm(vm));
    return {
      association,
      tasks: {
        GET: association.open(),
        DEL: inOrder(association.setKvm(null), () => vm.put()),
      },
      check: () => expect(vm.usesAfterFree).toEqual([]),
    };
  });
}

const readsWithoutLock = () =>
  broken(() => {
    let cached: Kvm = null;
    return {
      *setKvm(kvm) {
        cached = kvm;
        yield 'cached';
      },
      *open() {
        const kvm = cached;
        yield 'read the cache';
        kvm?.getUnlessDying();
      },
      close: nothing,
    };
  });

test('a VM is used after it was freed when GET_DEVICE_FD reads the cache without the lock', () => {
  expect(() => delAgainstGet(readsWithoutLock)).toThrowError(/interleaving \d+: .*DEL.*getUnlessDying/s);
});

test('DEL against GET_DEVICE_FD never uses a VM after its end', () => {
  expect(delAgainstGet(() => coreAssociation())).toBeGreaterThan(100);
});

test('the very interleaving that freed the VM under GET_DEVICE_FD makes DEL wait in the core', () => {
  const association = coreAssociation();
  const vm = new ScriptedVm();
  association.world.core.run(association.setKvm(vm));
  const scheduler = new Scheduler(association.world.core.environment.executor);
  const get = scheduler.spawn('GET', association.open());
  const del = scheduler.spawn(
    'DEL',
    inOrder(association.setKvm(null), () => vm.put()),
  );
  scheduler.runTo(get, 'read the cache');
  expect(scheduler.run(del)).toBe(false);
  expect(del.at).toMatch(/kvm_lock, held by GET$/);
  scheduler.runAll();
  expect(vm.references).toBe(1);
  expect(vm.usesAfterFree).toEqual([]);
  association.world.core.run(association.close());
  expect(vm.isFreed).toBe(true);
  association.end();
});

// 2. The last kvm_put in a close comes back as set_kvm(null) on the same group.

function lastPutInClose(make: () => Association): number {
  return race(() => {
    const association = make();
    const vm = new ScriptedVm();
    const { core } = association.world;
    core.run(association.setKvm(vm));
    core.run(association.open());
    vm.onDestroy = () => core.run(association.setKvm(null));
    return {
      association,
      tasks: { close: association.close(), 'VM end': inOrder(nothing(), () => vm.put()) },
      check: () => expect(vm.isFreed).toBe(true),
    };
  });
}

const putsUnderGroupLock = () =>
  broken((_world, lock) => {
    let cached: Kvm = null;
    let taken: Kvm = null;
    return {
      *setKvm(kvm) {
        using _held = yield* lock.acquire();
        cached = kvm;
      },
      *open() {
        using _held = yield* lock.acquire();
        taken = cached?.getUnlessDying() ? cached : null;
      },
      *close() {
        using _held = yield* lock.acquire();
        yield 'before the put';
        taken?.put();
      },
    };
  });

test('the last put of a VM under the group lock deadlocks with its own set_kvm(null)', () => {
  expect(() => lastPutInClose(putsUnderGroupLock)).toThrowError(
    /takes group->group_rwsem, which it already holds/,
  );
});

test('the last put of a VM in a close is outside all locks', () => {
  expect(lastPutInClose(() => coreAssociation())).toBeGreaterThan(3);
});

// 3. Open holds the group lock and the driver takes kvm->lock; ADD holds kvm->lock and set_kvm takes the group lock.

function addAgainstOpen(make: (driver: Driver, world: World) => Association): number {
  return race(() => {
    const world = new World();
    const kvmLock = new Mutex(world.core.environment, 'kvm->lock');
    const association = make(
      {
        *onOpen() {
          using _held = yield* kvmLock.acquire();
          yield 'the driver reads the memory slots';
        },
      },
      world,
    );
    const vm = new ScriptedVm();
    return {
      association,
      tasks: {
        ADD: (function* (): Steps<void> {
          using _held = yield* kvmLock.acquire();
          yield* association.setKvm(vm);
        })(),
        GET: association.open(),
      },
      check: () => undefined,
    };
  });
}

const opensUnderGroupLock = (driver: Driver, world: World): Association => {
  const lock = new Mutex(world.core.environment, 'group->group_rwsem');
  return {
    world,
    *setKvm() {
      using _held = yield* lock.acquire();
    },
    *open() {
      using _held = yield* lock.acquire();
      yield* driver.onOpen?.(null) ?? nothing();
    },
    close: nothing,
    end: () => undefined,
  };
};

test('ADD under kvm->lock and an open under the group lock wait for each other for ever', () => {
  expect(() => addAgainstOpen(opensUnderGroupLock)).toThrowError(
    /DeadlockError: .*kvm->lock, held by (ADD|GET)|DeadlockError: .*group_rwsem, held by (ADD|GET)/,
  );
});

test('ADD under kvm->lock and an open whose driver takes kvm->lock never wait for each other', () => {
  expect(addAgainstOpen(coreAssociation)).toBeGreaterThan(100);
});

// 4. Without an event for null, a driver never learns that the VM it works for is going.

function vmLeavesOpenDevice(make: (driver: Driver) => Association): number {
  return race(() => {
    const queue = { of: null as Kvm, usedAfterLeave: false };
    const association = make({
      *onOpen(kvm) {
        queue.of = kvm;
        yield 'the queue is set up';
      },
      onSetKvm: (kvm) => {
        queue.of = kvm;
      },
    });
    const vm = new ScriptedVm();
    const { core } = association.world;
    core.run(association.setKvm(vm));
    core.run(association.open());
    return {
      association,
      tasks: {
        DEL: inOrder(association.setKvm(null), () => {
          queue.usedAfterLeave = queue.of === vm;
        }),
      },
      check: () => expect(queue.usedAfterLeave).toBe(false),
    };
  });
}

const onlyCaches = (driver: Driver) =>
  broken(() => {
    let cached: Kvm = null;
    return {
      *setKvm(kvm) {
        yield 'cached';
        cached = kvm;
      },
      *open() {
        yield* driver.onOpen?.(cached) ?? nothing();
      },
      close: nothing,
    };
  });

test('a device that is only given its VM at open goes on using it after DEL', () => {
  expect(() => vmLeavesOpenDevice(onlyCaches)).toThrowError(/interleaving 1: .*expected true to be false/s);
});

test('an open device is told that its VM leaves before DEL returns', () => {
  expect(vmLeavesOpenDevice(coreAssociation)).toBeGreaterThan(0);
});

// 5. A VM moves: its group goes from one kvm to another while the device stays open, then it is closed.

function vmMoves(make: () => Association): number {
  return race(() => {
    const association = make();
    const [old, next] = [new ScriptedVm('old'), new ScriptedVm('next')];
    const { core } = association.world;
    core.run(association.setKvm(old));
    core.run(association.open());
    return {
      association,
      tasks: {
        move: inOrder(association.setKvm(null), association.setKvm(next)),
        close: association.close(),
      },
      check() {
        expect([old.references, next.references]).toEqual([1, 1]);
        expect([...old.usesAfterFree, ...next.usesAfterFree]).toEqual([]);
      },
    };
  });
}

const putsCurrentVm = () =>
  broken((_world, lock) => {
    let cached: Kvm = null;
    return {
      *setKvm(kvm) {
        using _held = yield* lock.acquire();
        cached = kvm;
      },
      *open() {
        using _held = yield* lock.acquire();
        cached?.getUnlessDying();
      },
      *close() {
        const { kvm } = yield* (function* (): Steps<{ kvm: Kvm }> {
          using _held = yield* lock.acquire();
          return { kvm: cached };
        })();
        kvm?.put();
      },
    };
  });

test("a close that puts the group's VM of now leaks the one that was taken at open", () => {
  expect(() => vmMoves(putsCurrentVm)).toThrowError(/interleaving \d+: .*move/s);
});

test('a VM that moves is put by the close that follows, and its successor is not', () => {
  expect(vmMoves(() => coreAssociation())).toBeGreaterThan(20);
});

test('an open fails or sees a whole device whatever an unregister does meanwhile', () => {
  const runs = race(() => {
    const world = new World();
    const made = world.device();
    const contained = world.contain(made);
    let file: CoreDeviceFile | undefined;
    return {
      association: {
        world,
        setKvm: nothing,
        open: nothing,
        close: nothing,
        end() {
          contained.close();
          world.end();
        },
      },
      tasks: {
        GET: (function* (): Steps<void> {
          try {
            file = yield* contained.group.getDeviceFdSteps(made.device.name);
          } catch (error) {
            expect(error).toMatchObject({ code: 'ENODEV' });
          }
          yield 'in use';
          if (file !== undefined) yield* file.closeSteps();
          yield* contained.group.closeSteps();
        })(),
        remove: made.device.unregister(),
      },
      check() {
        expect(made.ops.isOpen).toBe(false);
        const calls = made.ops.calls.filter((call) => !call.startsWith('request'));
        expect([[], ['openDevice', 'closeDevice']]).toContainEqual(calls);
      },
    };
  });
  expect(runs).toBeGreaterThan(100);
});
