import fc from 'fast-check';
import { expect, test } from 'vitest';
import { ACPI_NOTIFY_EJECT_REQUEST } from '../devices/platform/pci-hotplug.js';
import { Scope } from '../sys/scope.js';
import type { Later } from './machine-calls.js';
import { type Bench, config, hotplugBench } from './testing/hotplug-bench.js';

const DEVICES = ['virtio-net', 'mtty-1', 'mtty-2', 'vgpu-small'] as const;
const BUSY = 0x82;

/** How a request to detach ended: undefined while it is open. */
function outcome(result: Later<void>): () => string | undefined {
  let seen: string | undefined;
  result.whenSettled((get) => {
    try {
      get();
      seen = 'done';
    } catch (error) {
      seen = (error as Error).message;
    }
  });
  return () => seen;
}

/** The guest follows a request as Linux does. */
function obeys({ guest }: Bench): void {
  for (const slot of guest.events().down) {
    guest.ejects(slot);
    guest.reports(slot, ACPI_NOTIFY_EJECT_REQUEST, 0);
  }
}

test('an attached device is in configuration space, and the guest is told to check its slot', () => {
  using scope = new Scope();
  const { hotplug, guest, changes } = hotplugBench(scope);
  expect(hotplug.attach([config('mtty-1'), config('vgpu-small', { slot: 31 })])).toEqual([3, 31]);
  expect(guest.present()).toEqual([3, 31]);
  expect(guest.events()).toEqual({ up: [3, 31], down: [] });
  expect(hotplug.attach([config('mtty-1')])).toEqual([4]);
  expect(changes).toEqual([
    [3, 31],
    [3, 31, 4],
  ]);
});

test('functions of a slot come and go together, and the guest is told of their slot once', () => {
  using scope = new Scope();
  const { hotplug, guest, devices, state } = hotplugBench(scope);
  const before = state();
  const functions = [{ ...config('mtty-1', { slot: 6 }), function: 1 }, config('mtty-2', { slot: 6 })];
  expect(hotplug.attach(functions)).toEqual([6, 6]);
  expect(guest.events()).toEqual({ up: [6], down: [] });
  expect(devices.list.map(({ name }) => name)).toEqual(['00:06.1 mtty-1', '00:06.0 mtty-2']);
  expect(() => hotplug.attach([{ ...config('mtty-1', { slot: 6 }), function: 2 }])).toThrowError(/EBUSY/);
  const result = outcome(hotplug.detach(6, false, 1));
  guest.events();
  guest.ejects(6);
  expect([result(), devices.list]).toEqual(['done', []]);
  expect(state()).toEqual(before);
});

test('a device leaves when the guest ejects it, and not before', () => {
  using scope = new Scope();
  const bench = hotplugBench(scope);
  const before = bench.state();
  bench.hotplug.attach([config('vgpu-small')]);
  bench.guest.events();
  bench.guest.enableAll();
  expect(bench.state()).not.toEqual(before);
  const result = outcome(bench.hotplug.detach(3, false, 1));
  expect([result(), bench.guest.present()]).toEqual([undefined, [3]]);
  expect(bench.guest.events()).toEqual({ up: [], down: [3] });
  bench.guest.ejects(3);
  expect([result(), bench.guest.present()]).toEqual(['done', []]);
  expect(bench.state()).toEqual(before);
  expect(bench.changes).toEqual([[3], []]);
});

test('a guest that refuses keeps the device, and the reason is the error', () => {
  using scope = new Scope();
  const bench = hotplugBench(scope);
  bench.hotplug.attach([config('mtty-1')]);
  const result = outcome(bench.hotplug.detach(3, false, 1));
  bench.guest.events();
  bench.guest.reports(3, ACPI_NOTIFY_EJECT_REQUEST, 0x84); // in progress
  expect(result()).toBeUndefined();
  bench.guest.reports(3, ACPI_NOTIFY_EJECT_REQUEST, BUSY);
  expect(result()).toMatch(
    /^detach on 00:03\.0 mtty-1: EBUSY\n {2}hint: the guest refuses: the device is busy .*0x82.*force/,
  );
  expect(bench.guest.present()).toEqual([3]);
  // Asked again, it can still let it go.
  const again = outcome(bench.hotplug.detach(3, false, 2));
  obeys(bench);
  expect([again(), bench.guest.present()]).toEqual(['done', []]);
});

test('a request whose time is up fails, and a guest that has not read it is no longer asked', () => {
  using scope = new Scope();
  const bench = hotplugBench(scope);
  bench.hotplug.attach([config('mtty-1')]);
  const result = outcome(bench.hotplug.detach(3, false, 7));
  bench.hotplug.expire(6, 100);
  expect(result()).toBeUndefined();
  bench.hotplug.expire(7, 100);
  expect(result()).toMatch(/mtty-1: ETIMEDOUT\n.*within 100 ms.*acpiphp/);
  expect(bench.guest.events().down).toEqual([]);
  expect(bench.guest.present()).toEqual([3]);
});

test('two requests for one device end together, and the time of one does not withdraw the other', () => {
  using scope = new Scope();
  const bench = hotplugBench(scope);
  bench.hotplug.attach([config('mtty-1')]);
  const [first, second] = [1, 2].map((id) => outcome(bench.hotplug.detach(3, false, id)));
  bench.hotplug.expire(1, 5);
  expect([first?.(), second?.()]).toEqual([expect.stringContaining('ETIMEDOUT'), undefined]);
  obeys(bench);
  expect(second?.()).toBe('done');
});

test('a device removed by force is gone at once, and its slot is free once the guest has noticed', () => {
  using scope = new Scope();
  const bench = hotplugBench(scope);
  const before = bench.state();
  bench.hotplug.attach([config('vgpu-small')]);
  bench.guest.events();
  bench.guest.enableAll();
  const asked = outcome(bench.hotplug.detach(3, false, 1));
  expect(outcome(bench.hotplug.detach(3, true, 2))()).toBe('done');
  expect([asked(), bench.guest.present()]).toEqual(['done', []]);
  expect(bench.state()).toEqual(before);
  expect(() => bench.hotplug.attach([config('mtty-1', { slot: 3 })])).toThrowError(
    /PCI slot 3: EBUSY\n.*has not released it/,
  );
  expect(bench.hotplug.attach([config('mtty-1')])).toEqual([4]);
  obeys(bench);
  expect(bench.guest.present()).toEqual([4]);
  expect(bench.hotplug.attach([config('mtty-1', { slot: 3 })])).toEqual([3]);
});

test('a guest without ACPI is not asked: the device is gone, and its slot is free', () => {
  using scope = new Scope();
  const { hotplug, guest } = hotplugBench(scope, { hasAcpi: false });
  hotplug.attach([config('mtty-1')]);
  expect(outcome(hotplug.detach(3, false, 1))()).toBe('done');
  expect(guest.present()).toEqual([]);
  expect(hotplug.attach([config('mtty-1')])).toEqual([3]);
  expect(guest.events()).toEqual({ up: [], down: [] });
});

test('an empty slot, a taken one, and a bus without a free one are refused with what is there', () => {
  using scope = new Scope();
  const { hotplug } = hotplugBench(scope);
  expect(() => hotplug.detach(5, true, 1)).toThrowError(/PCI slot 5: ENODEV\n.*no assigned device/);
  hotplug.attach([config('mtty-1')]);
  expect(() => hotplug.detach(5, false, 1)).toThrowError(/ENODEV\n.*00:03\.0 mtty-1/);
  expect(() => hotplug.attach([config('mtty-1', { slot: 3 })])).toThrowError(/EBUSY\n.*00:03\.0 mtty-1/);
  hotplug.attach(Array.from({ length: 16 }, () => config('vgpu-small')));
  hotplug.attach(Array.from({ length: 12 }, () => config('mtty-1')));
  expect(() => hotplug.attach([config('mtty-1')])).toThrowError(/the PCI bus: ENOSPC/);
  expect(hotplug.attach([config('mtty-1', { slot: 1 })])).toEqual([1]);
});

test('a guest that ejects by itself, or what is not there, or reports anything, throws nothing', () => {
  using scope = new Scope();
  const { hotplug, guest, changes } = hotplugBench(scope);
  hotplug.attach([config('mtty-1'), config('mtty-1')]);
  guest.ejects(3);
  for (let slot = 5; slot < 32; slot++) guest.ejects(slot);
  fc.assert(
    fc.property(fc.nat(255), fc.nat(0xffff), fc.nat(255), (slot, event, status) =>
      guest.reports(slot, event, status),
    ),
  );
  expect([guest.present(), changes]).toEqual([[4], [[3, 4], [4]]]);
});

test('the host’s first request asks the guest, the second takes the device', () => {
  using scope = new Scope();
  const { hotplug, guest } = hotplugBench(scope);
  hotplug.attach([config('mtty-1')]);
  hotplug.requested(9);
  hotplug.requested(3);
  expect([guest.events().down, guest.present()]).toEqual([[3], [3]]);
  hotplug.requested(3);
  expect(guest.present()).toEqual([]);
});

test('a reset of the guest ends what it was asked for: those devices do not come back', () => {
  using scope = new Scope();
  const bench = hotplugBench(scope);
  bench.hotplug.attach(['mtty-1', 'mtty-1', 'vgpu-small'].map((address) => config(address)));
  const result = outcome(bench.hotplug.detach(4, false, 1));
  bench.hotplug.requested(5);
  bench.hotplug.finish();
  expect([result(), bench.changes.at(-1)]).toEqual(['done', [3]]);
});

test('a failure of closing is the error of the detach, and the device is gone all the same', () => {
  using scope = new Scope();
  const bench = hotplugBench(scope);
  bench.hotplug.attach([config('mtty-1')]);
  const result = outcome(bench.hotplug.detach(3, false, 1));
  bench.guest.events();
  const calls = callsOf(bench, () => {
    bench.faults.failAt(0, 'EIO');
    bench.guest.ejects(3);
  });
  expect(calls).toEqual(['kvm-vfio.removeFile']);
  expect([result(), bench.guest.present()]).toEqual([expect.stringMatching(/removeFile on .*: EIO/), []]);
  expect([bench.devices.list, bench.state().maps]).toEqual([[], []]);
});

function callsOf({ faults }: Bench, action: () => void): string[] {
  action();
  return [...faults.calls];
}

test.each(['group', 'iommufd'] as const)(
  'if any step of attaching three devices fails, none is attached and nothing is left (%s)',
  (how) => {
    using scope = new Scope();
    const bench = hotplugBench(scope);
    const { faults, hotplug, guest, devices } = bench;
    const list = ['vgpu-small', 'mtty-2', 'virtio-net'].map((address) => config(address, { interface: how }));
    const before = bench.state();
    const failed: string[] = [];
    for (let index = 0; ; index++) {
      faults.failAt(index, 'ENOMEM');
      const error = errorOf(() => hotplug.attach(list));
      if (faults.count <= index) break; // each call has failed once
      if (error === undefined) {
        // A device can do without its INTx; detached, it leaves as little.
        expect(faults.calls[index]).toBe('interrupts.level');
        for (const { slot } of devices.list) hotplug.detach(slot, true, index);
        obeys(bench);
      } else {
        failed.push(String(faults.calls[index]));
        expect(error).toMatchObject({ code: 'ENOMEM' });
        expect(guest.events()).toEqual({ up: [], down: [] });
      }
      expect([guest.present(), bench.state()]).toEqual([[], before]);
    }
    faults.failAt(-1, 'EIO');
    expect(guest.present()).toEqual([3, 4, 5]);
    // Each of the three has been the one that failed.
    expect(failed.filter((call) => call === 'kvm-vfio.addFile')).toHaveLength(3);
    expect(failed.filter((call) => call === 'event.run').length).toBeGreaterThan(1);
  },
);

function errorOf(action: () => unknown): unknown {
  try {
    action();
    return undefined;
  } catch (error) {
    return error;
  }
}

test('what is rolled back is closed in reverse order', () => {
  using scope = new Scope();
  const { hotplug, associated } = hotplugBench(scope);
  const wrong = config('mtty-1', { options: { port0: 'unix:/nowhere/at/all' } });
  expect(() => hotplug.attach([config('vgpu-small'), config('mtty-2'), wrong])).toThrowError(/nowhere/);
  const [first, second, ...others] = associated
    .filter((each) => each.startsWith('add'))
    .map((each) => each.slice(4));
  expect(others).toEqual([]);
  expect(associated).toEqual([`add ${first}`, `add ${second}`, `remove ${second}`, `remove ${first}`]);
});

test('fifty times attached and detached, everything is as before', () => {
  using scope = new Scope();
  const bench = hotplugBench(scope);
  const before = bench.state();
  for (let round = 0; round < 50; round++) {
    const address = DEVICES[round % DEVICES.length] as string;
    bench.hotplug.attach([config(address, { interface: round % 8 < 4 ? 'group' : 'iommufd' })]);
    bench.guest.events();
    bench.guest.enableAll();
    const result = outcome(bench.hotplug.detach(3, round % 5 === 0, round));
    obeys(bench);
    expect(result()).toBe('done');
    expect(bench.state()).toEqual(before);
  }
});

test('whatever is attached, detached, refused or fails: devices reach RAM and the mapped BARs, and no more', () => {
  const slot = fc.integer({ min: 3, max: 8 });
  const step = fc.oneof(
    fc.record({
      kind: fc.constant('attach' as const),
      list: fc.array(fc.constantFrom(...DEVICES), { minLength: 1, maxLength: 3 }),
      how: fc.constantFrom('group' as const, 'iommufd' as const),
      failAt: fc.option(fc.nat(80)),
    }),
    fc.record({ kind: fc.constant('enable' as const) }),
    fc.record({ kind: fc.constant('obey' as const) }),
    fc.record({ kind: fc.constantFrom('detach' as const, 'force' as const, 'refuse' as const), slot }),
    fc.record({ kind: fc.constantFrom('eject' as const, 'host' as const), slot }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 25 }), (steps) => {
      using scope = new Scope();
      const bench = hotplugBench(scope);
      const { hotplug, guest, devices, faults } = bench;
      const before = bench.state();
      for (const [id, each] of steps.entries()) {
        const held = devices.list.map((device) => device.slot).sort();
        try {
          if (each.kind === 'attach') {
            if (each.failAt !== null) faults.failAt(each.failAt, 'ENOMEM');
            hotplug.attach(each.list.map((address) => config(address, { interface: each.how })));
          } else if (each.kind === 'enable') guest.enableAll();
          else if (each.kind === 'obey') obeys(bench);
          else if (each.kind === 'detach') hotplug.detach(each.slot, false, id);
          else if (each.kind === 'force') hotplug.detach(each.slot, true, id);
          else if (each.kind === 'refuse') guest.reports(each.slot, ACPI_NOTIFY_EJECT_REQUEST, BUSY);
          else if (each.kind === 'eject') guest.ejects(each.slot);
          else hotplug.requested(each.slot);
        } catch {
          // Refused: nothing has changed.
          expect(devices.list.map((device) => device.slot).sort()).toEqual(held);
        }
        faults.failAt(-1, 'EIO');
        expect(guest.present()).toEqual(devices.list.map((device) => device.slot).sort((a, b) => a - b));
        const { maps } = bench.state();
        expect(maps).toHaveLength(devices.list.length);
        for (const map of maps) expect(map).toEqual(bench.memory());
      }
      for (const device of devices.list) hotplug.detach(device.slot, true, 1000);
      expect(bench.state()).toEqual(before);
    }),
    { numRuns: 60 },
  );
});
