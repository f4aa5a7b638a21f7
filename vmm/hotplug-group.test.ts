/** Two devices, of one IOMMU group or of two: attached whole or not at all, whichever call of VFIO or KVM fails. */
import { describe, expect, test } from 'vitest';
import { Scope } from '../sys/scope.js';
import { type Bench, config, hotplugBench } from './testing/hotplug-bench.js';
import { PAIR } from './testing/pair-provider.js';

const [DISPLAY, NIC] = PAIR;
const both = ['group', 'iommufd'] as const;
const arrangements = [
  { what: 'a display and a NIC of one group', addresses: [DISPLAY, NIC], isOneGroup: true },
  { what: 'a NIC and a display of one group', addresses: [NIC, DISPLAY], isOneGroup: true },
  { what: 'devices of two groups', addresses: ['mtty-2', 'virtio-net'], isOneGroup: false },
] as const;

/** What a device can do without: its INTx, the map of a BAR (whose accesses then trap), a register that it does not answer. */
const BORNE = [
  ...['device.mmap', 'device.queryGfxPlane', 'device.read', 'device.setIrqs', 'device.write'],
  'interrupts.level',
];
/** Steps of every attach. */
const ALWAYS = [
  ...['provider.resolve', 'device.getInfo', 'device.getRegionInfo', 'device.getRegionIoFds', 'device.reset'],
  ...['device.getIrqInfo', 'device.setIrqs', 'signals.watch'],
];
/** Those of the second device besides. */
const STEPS = {
  group: {
    oneGroup: ['group.getDeviceFd'],
    twoGroups: [
      ...['groups.openGroup', 'group.getStatus', 'group.setContainer', 'kvm-vfio.addFile'],
      'group.getDeviceFd',
    ],
  },
  iommufd: ['cdevs.openCdev', 'kvm-vfio.addFile', 'device.bindIommufd', 'device.attachIoas'],
} as const;

/** Detaches all devices, as Linux releases them. */
function detachAll({ devices, hotplug, guest }: Bench): void {
  for (const { slot } of devices.list) hotplug.detach(slot, true, slot);
  for (const slot of guest.events().down) guest.ejects(slot);
}

/** Runs the action with each of its calls failing in turn, from the `from`th on; `check` is given the call, and the error. */
function failEach(
  { faults }: Bench,
  action: () => void,
  check: (call: string, error: unknown) => void,
  from = 0,
): void {
  for (let index = from; ; index++) {
    faults.failAt(index, 'EIO');
    let failure: unknown;
    try {
      action();
    } catch (error) {
      failure = error;
    }
    const call = faults.calls[index];
    faults.failAt(-1, 'EIO');
    if (call === undefined) return;
    check(call, failure);
  }
}

function callsOf({ faults }: Bench, action: () => void): number {
  faults.failAt(-1, 'EIO');
  action();
  return faults.count;
}

describe.each(both)('by %s', (how) => {
  test.each(arrangements)(
    '$what: whichever step of the second fails, neither is attached, and nothing is left',
    { timeout: 120_000 },
    ({ addresses, isOneGroup }) => {
      using scope = new Scope();
      const bench = hotplugBench(scope, { hasFaultyFiles: true });
      const { hotplug, guest } = bench;
      const list = addresses.map((address) => config(address, { interface: how }));
      const before = bench.state();
      const ofFirst = callsOf(bench, () => hotplug.attach(list.slice(0, 1)));
      detachAll(bench);
      const refused = new Set<string>();
      failEach(
        bench,
        () => hotplug.attach(list),
        (call, error) => {
          if (error === undefined) {
            expect(BORNE).toContain(call);
            expect(guest.present()).toEqual([3, 4]);
            detachAll(bench);
          } else {
            refused.add(call);
            // A register that is not read is all ones: as that of a bridge, or of no device.
            if (call !== 'device.read') expect(error).toMatchObject({ code: 'EIO' });
            expect(guest.events()).toEqual({ up: [], down: [] });
          }
          expect([guest.present(), bench.state()], `${call} failed`).toEqual([[], before]);
        },
        ofFirst,
      );
      const steps = how === 'group' ? STEPS.group[isOneGroup ? 'oneGroup' : 'twoGroups'] : STEPS.iommufd;
      expect([...refused]).toEqual(expect.arrayContaining([...ALWAYS, ...steps]));
      expect(guest.present()).toEqual([3, 4]); // of the last one, in which nothing failed
    },
  );

  test('whichever step of mapping BARs and enabling MSI-X fails, the guest goes on, and nothing is left', () => {
    using scope = new Scope();
    const bench = hotplugBench(scope, { hasFaultyFiles: true });
    const { hotplug, guest } = bench;
    const list = PAIR.map((address) => config(address, { interface: how }));
    const before = bench.state();
    const failed = new Set<string>();
    hotplug.attach(list);
    failEach(bench, guest.enableAll, (call, error) => {
      failed.add(call);
      expect([call, error, guest.present()]).toEqual([call, undefined, [3, 4]]);
      detachAll(bench);
      expect(bench.state(), `${call} failed`).toEqual(before);
      hotplug.attach(list);
    });
    const map = how === 'group' ? 'container.mapDma' : 'iommufd.ioasMap';
    expect([...failed]).toEqual(expect.arrayContaining(['slots.add', map, 'device.write', 'device.setIrqs']));
  });
});
