import { afterEach, beforeEach, expect, test } from 'vitest';
import { iova } from '../../sys/address.js';
import { Mapping } from '../../sys/mapping.js';
import type { KvmPointer } from '../driver.js';
import { RecordingListener } from '../testing/recording-listener.js';
import { ScriptedVm } from '../testing/scripted-kvm.js';
import { World } from '../testing/world.js';
import { Timeline } from '../timeline.js';
import { VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE } from '../uapi.js';
import { VFIO_GROUP_NOTIFY, VFIO_GROUP_NOTIFY_SET_KVM } from './group.js';
import { CoreIommufdFile } from './iommufd.js';

const flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;

let world: World;
let ram: Mapping;
beforeEach(() => {
  world = new World();
  ram = Mapping.anonymous(0x10000);
});
afterEach(() => {
  ram[Symbol.dispose]();
  world.end();
});

/** `seq what details < cause` of each event. */
const lines = ({ events }: Timeline): string[] =>
  events.map(({ what, seq, cause, details }) => {
    const rest = Object.entries(details).map(([name, value]) => `${name}=${value}`);
    return [seq, what, ...rest, ...(cause === 0 ? [] : ['<', cause])].join(' ');
  });

const REGISTER = [
  '1 register device=nic',
  '2 create_group group=0 < 1',
  '3 registered device=nic group=0 cdev=vfio0 < 1',
];

/** The events of an unregister that is number `seq`. */
const unregister = (seq: number): string[] => [
  `${seq} unregister device=nic group=0`,
  ...[
    'unregistered device=nic group=0',
    'group_remove_node group=0',
    'group_list_del group=0',
    'group_free_minor group=0',
    'group_unregister_notifier group=0',
    'group_free_unbound group=0',
    'group_free group=0',
  ].map((text, i) => `${seq + 1 + i} ${text} < ${seq}`),
];

test('the way of a device by its group is told in order, each event with the one that caused it', () => {
  using timeline = Timeline.start();
  const made = world.device({ name: 'nic' });
  const vm = new ScriptedVm();
  const contained = world.contain(made);
  const { container, group } = contained;
  const range = { iova: iova(0x1000n), size: 0x2000n };
  container.mapDma({ flags, vaddr: ram.hva, ...range });
  world.core.vfioFileOps.setKvm(group, vm);
  const listener = new RecordingListener<KvmPointer | null>('driver');
  const events = { mask: VFIO_GROUP_NOTIFY_SET_KVM };
  world.core.run(made.device.registerNotifier(VFIO_GROUP_NOTIFY, events, listener));
  const file = world.open(contained, made);
  file.setIrqs({ index: 0, flags: 0x21, start: 0, count: 1 });
  file.reset();
  container.unmapDma({ flags: 0, ...range });
  file[Symbol.dispose]();
  world.core.run(made.device.unregisterNotifier(VFIO_GROUP_NOTIFY, listener));
  world.core.vfioFileOps.setKvm(group, null);
  contained.close();
  world.remove(made);
  expect(lines(timeline)).toEqual([
    ...REGISTER,
    '4 open_group group=0',
    '5 set_container group=0',
    '6 set_iommu driver=vfio-iommu-type1 type=3',
    `7 map_dma iova=4096 size=8192 vaddr=${ram.hva} prot=3`,
    '8 set_kvm group=0 kvm=kvm 1',
    '9 register_notifier group=0 listener=driver',
    '10 replay group=0 listener=driver kvm=kvm 1',
    '11 get_device_fd group=0 device=nic',
    '12 open_device device=nic kvm=kvm 1 < 11',
    '13 set_irqs device=nic index=0 flags=33 start=0 count=1',
    '14 reset device=nic',
    '15 unmap_dma iova=4096 size=8192 unmapped=8192',
    '16 close_device device=nic',
    '17 unregister_notifier group=0 listener=driver',
    '18 set_kvm group=0 kvm=null',
    '19 close_group group=0',
    '20 unset_iommu',
    '21 unset_container group=0',
    ...unregister(22),
  ]);
  expect(new Set(timeline.events.map(({ task }) => task))).toEqual(new Set(['caller']));
});

test('the way of a device by its cdev is told in order', () => {
  using timeline = Timeline.start();
  const made = world.device({ name: 'nic' });
  const vm = new ScriptedVm();
  const file = world.openCdev(made.device.cdev);
  world.core.vfioFileOps.setKvm(file, vm);
  const iommufd = CoreIommufdFile.open(world.core.environment);
  file.bindIommufd(iommufd);
  const ioas = iommufd.ioasAlloc();
  file.attachIoas(ioas);
  file.detachIoas();
  world.core.vfioFileOps.setKvm(file, null);
  file[Symbol.dispose]();
  iommufd[Symbol.dispose]();
  world.remove(made);
  expect(lines(timeline)).toEqual([
    ...REGISTER,
    '4 open_cdev device=nic cdev=vfio0',
    '5 set_kvm device=nic kvm=kvm 1',
    '6 bind_iommufd device=nic',
    '7 open_device device=nic kvm=kvm 1 < 6',
    '8 ioas_alloc ioas=2',
    '9 attach_ioas device=nic ioas=2',
    '10 detach_ioas device=nic',
    '11 set_kvm device=nic kvm=null',
    '12 close_device device=nic',
    ...unregister(13),
  ]);
});

test('resets of a slot are told, with a function’s own reset that failed', () => {
  const slot = { functions: [{ name: 'nic' }], reset: () => undefined };
  const made = world.device({ name: 'nic', pci: { slot } });
  const contained = world.contain(made);
  const file = world.open(contained, made);
  {
    using timeline = Timeline.start();
    file.pciHotReset([contained.group]);
    Object.assign(made.ops, {
      reset: () => {
        throw new RangeError('no');
      },
    });
    file[Symbol.dispose]();
    const told = timeline.events.map(({ what, details }) => `${what} ${details.device}`);
    expect(told).toEqual(['hot_reset nic', 'close_device nic', 'reset_failed nic', 'hot_reset nic']);
  }
  contained.close();
  world.remove(made);
});

test('a device without a reset of its own reports no failed one', () => {
  const slot = { functions: [{ name: 'nic' }], reset: () => undefined };
  const made = world.device({ name: 'nic', pci: { slot }, hasReset: false });
  const contained = world.contain(made);
  const file = world.open(contained, made);
  {
    using timeline = Timeline.start();
    file[Symbol.dispose]();
    expect(timeline.events.map(({ what }) => what)).toEqual(['close_device', 'hot_reset']);
  }
  contained.close();
  world.remove(made);
});

test('an event of a task names it, and a cause ends with its operation', async () => {
  const { environment } = world.core;
  using timeline = Timeline.start();
  await world.core.start(
    'worker',
    (function* () {
      {
        using _cause = environment.log.span('outer', {});
        {
          using _inner = environment.log.span('inner', {});
          environment.log.event('deep', {});
        }
        environment.log.event('shallow', {});
      }
      environment.log.event('after', {});
      yield 'done';
    })(),
  );
  environment.log.event('outside', {});
  expect(timeline.events.map(({ task, what, cause }) => [task, what, cause])).toEqual([
    ['worker', 'outer', 0],
    ['worker', 'inner', 1],
    ['worker', 'deep', 2],
    ['worker', 'shallow', 1],
    ['worker', 'after', 0],
    ['caller', 'outside', 0],
  ]);
});

test('a warning is told as well, and each request of an unregister with its count', async () => {
  const made = world.device({ name: 'nic' });
  const contained = world.contain(made);
  const file = world.open(contained, made);
  using timeline = Timeline.start();
  const removed = world.core.start('remove', made.device.unregister());
  await world.clock.advance(10_000);
  world.core.environment.warn('look');
  expect(world.takeWarnings()).toEqual(['look']);
  const told = timeline.events.filter(({ what }) => what === 'request' || what === 'warn');
  expect(told.map(({ what, details }) => [what, details])).toEqual([
    ['request', { device: 'nic', count: 0 }],
    ['request', { device: 'nic', count: 1 }],
    ['warn', { text: 'look' }],
  ]);
  file[Symbol.dispose]();
  contained.close();
  await removed;
});
