/** The cases of the association of KVM and VFIO, in the core, and the page that has them beside Linux's. */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { expectDocTable } from '../sys/testing/doc-table.js';
import { trace, type VfioEvent } from '../sys/trace.js';
import { type KvmPointer, VFIO_GROUP_NOTIFY, VFIO_GROUP_NOTIFY_SET_KVM } from '../vfio/index.js';
import { RecordingListener, World, type WorldDevice } from '../vfio/testing/index.js';
import {
  ASSOCIATION_CASES,
  type AssociationEvent,
  type AssociationSubject,
  associationTable,
  runAssociation,
  type SubjectDevice,
} from './testing/association-cases.js';

let world: World;
let devices: WorldDevice[];
const events: AssociationEvent[] = [];

function hear({ what, kvm }: VfioEvent): void {
  if (what === 'set_kvm') events.push({ what, vm: kvm ?? undefined });
  if (what === 'open_device') events.push({ what: 'open', vm: kvm ?? undefined });
  if (what === 'close_device') events.push({ what: 'last close' });
}

beforeEach(() => {
  world = new World();
  const group = world.iommuGroup();
  devices = [world.device(), world.device({ group }), world.device({ group })];
  trace.vfio.subscribe(hear);
});
afterEach(() => {
  trace.vfio.unsubscribe(hear);
  world.remove(...devices);
  world.end();
});

/** What a listener hears as it registers. */
function replayed({ device }: WorldDevice): (string | undefined)[] {
  const listener = new RecordingListener<KvmPointer | null>('late');
  world.core.run(device.registerNotifier(VFIO_GROUP_NOTIFY, { mask: VFIO_GROUP_NOTIFY_SET_KVM }, listener));
  const heard = listener.heard.map((kvm) => world.core.environment.kvmName(kvm) ?? undefined);
  world.core.run(device.unregisterNotifier(VFIO_GROUP_NOTIFY, listener));
  return heard;
}

function subject(): AssociationSubject {
  const [alone, one, other] = devices.map(({ device }): SubjectDevice => {
    return { name: device.name, group: device.group.number, cdev: device.cdev };
  }) as [SubjectDevice, SubjectDevice, SubjectDevice];
  return {
    provider: world.core.provider,
    fileOps: world.core.vfioFileOps,
    ...{ alone, shared: [one, other] },
    takeEvents: () => events.splice(0),
    replayed: ({ name }) => replayed(devices.find(({ device }) => device.name === name) as WorldDevice),
  };
}

test.each(ASSOCIATION_CASES)('the core: $name', (each) => {
  expect(runAssociation(each, subject())).toEqual(each.answers);
});

test('docs/kvm-vfio.md has the table of these cases (TSVISOR_UPDATE_KVM_VFIO=1 writes it)', () => {
  expectDocTable('kvm-vfio.md', associationTable(), 'TSVISOR_UPDATE_KVM_VFIO');
});
