import { expect, test } from 'vitest';
import { trace } from '../sys/trace.js';
import { VFIO_GROUP_NOTIFY, VFIO_GROUP_NOTIFY_SET_KVM } from './core/group.js';
import { CoreIommufdFile } from './core/iommufd.js';
import type { KvmPointer } from './driver.js';
import { RecordingListener } from './testing/recording-listener.js';
import { ScriptedVm } from './testing/scripted-kvm.js';
import { World } from './testing/world.js';
import { Timeline } from './timeline.js';

/** A device is opened with a VM, listens, and is closed. */
function story(world: World): void {
  const made = world.device();
  const contained = world.contain(made);
  world.core.vfioFileOps.setKvm(contained.group, new ScriptedVm());
  const file = world.open(contained, made);
  const listener = new RecordingListener<KvmPointer | null>('driver');
  const events = { mask: VFIO_GROUP_NOTIFY_SET_KVM };
  world.core.run(made.device.registerNotifier(VFIO_GROUP_NOTIFY, events, listener));
  file.setIrqs({ index: 0, flags: 0x21, start: 0, count: 1 });
  world.core.run(made.device.unregisterNotifier(VFIO_GROUP_NOTIFY, listener));
  file[Symbol.dispose]();
  world.core.vfioFileOps.setKvm(contained.group, null);
  contained.close();
  world.remove(made);
  world.end();
}

test('a timeline has every step of an association in order, each with its cause', () => {
  using timeline = Timeline.start(() => 0);
  story(new World());
  const lines = timeline.toText().split('\n');
  const order = [
    'register',
    'open_group',
    'set_container',
    'set_iommu',
    'set_kvm',
    'get_device_fd',
    'open_device',
  ];
  const at = order.map((what) => timeline.events.findIndex((event) => event.what === what));
  expect([...at].sort((a, b) => a - b)).toEqual(at);
  expect(at).not.toContain(-1);
  const bySeq = new Map(timeline.events.map((event) => [event.seq, event]));
  const open = timeline.events.find(({ what }) => what === 'open_device');
  expect(bySeq.get(open?.cause ?? 0)?.what).toBe('get_device_fd');
  expect(open?.details).toEqual({ device: '0000:00:00.0', kvm: 'kvm 1' });
  expect(lines).toContain('    0.000   open_device device=0000:00:00.0 kvm=kvm 1 [caller]');
  for (const what of [
    'register_notifier',
    'replay',
    'set_irqs',
    'unregister_notifier',
    'close_device',
    'group_free',
  ]) {
    expect(timeline.events.map((event) => event.what)).toContain(what);
  }
});

test('nothing is recorded, and nobody subscribes, outside of a timeline', () => {
  const timeline = Timeline.start();
  timeline[Symbol.dispose]();
  expect(trace.vfio.hasSubscribers).toBe(false);
  story(new World());
  expect(timeline.events).toEqual([]);
});

test('a timeline is JSON, with addresses as text', () => {
  using timeline = Timeline.start();
  trace.vfio.publish({ what: 'map_dma', iova: 0x1000n });
  expect(JSON.parse(timeline.toJson())).toMatchObject([{ what: 'map_dma', details: { iova: '0x1000' } }]);
});

test('a Chrome trace has one row a task, and an arrow from each cause to what followed', () => {
  const world = new World();
  using timeline = Timeline.start();
  const made = world.device();
  const iommufd = CoreIommufdFile.open(world.core.environment);
  const file = world.openCdev(made.device.cdev);
  file.bindIommufd(iommufd);
  file[Symbol.dispose]();
  iommufd[Symbol.dispose]();
  world.remove(made);
  world.end();
  const { traceEvents } = JSON.parse(timeline.toChromeTrace()) as {
    traceEvents: { name: string; ph: string; id?: number; args?: { name?: string } }[];
  };
  const steps = traceEvents.filter(({ ph }) => ph === 'X').map(({ name }) => name);
  expect(steps).toEqual(timeline.events.map(({ what }) => what));
  const [starts, ends] = ['s', 'f'].map((kind) =>
    traceEvents.filter(({ ph }) => ph === kind).map(({ id }) => id),
  );
  expect(starts).toEqual(ends);
  expect(starts?.length).toBe(timeline.events.filter(({ cause }) => cause > 0).length);
  expect(traceEvents.filter(({ ph }) => ph === 'M').map(({ args }) => args?.name)).toEqual(['caller']);
});
