/** Platform devices in any state go on in another device as if nothing had happened. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { BusDevice } from '../contracts.js';
import { ACPI_PM_PORTS, AcpiPm } from './acpi-pm.js';
import { I8042 } from './i8042.js';
import { PciHotplug } from './pci-hotplug.js';
import { RTC_PORTS, Rtc } from './rtc.js';

interface Saved {
  readonly buses: readonly { readonly device: BusDevice; readonly ports: number }[];
  /** What happens beside the guest's accesses. */
  event(number: number): void;
  save(): Uint8Array;
  load(state: Uint8Array): boolean;
}

/** A clock that the test turns, and what the devices tell the machine. */
class Machine {
  now = 1_790_000_000_000;
  readonly told: string[] = [];
  tell = (what: string) => () => void this.told.push(what);
}

const kinds: Readonly<Record<string, (machine: Machine) => Saved>> = {
  'real-time clock': (machine) => {
    const rtc = new Rtc({ nowMs: () => machine.now });
    const buses = [{ device: rtc, ports: RTC_PORTS }];
    return { buses, event: () => {}, save: () => rtc.save(), load: (state) => rtc.load(state) };
  },
  'ACPI registers': (machine) => {
    const pm = new AcpiPm({
      nowNs: () => BigInt(machine.now) * 1_000_000n,
      raiseSci: (level) => machine.tell(`sci ${level}`)(),
      powerOff: machine.tell('off'),
      reset: machine.tell('reset'),
    });
    const event = (number: number) => (number % 2 === 0 ? pm.pressPowerButton() : pm.raiseGpe(number % 16));
    const buses = [{ device: pm, ports: ACPI_PM_PORTS }];
    return { buses, event, save: () => pm.save(), load: (state) => pm.load(state) };
  },
  'keyboard controller': (machine) => {
    const i8042 = new I8042({ reset: machine.tell('reset') });
    const buses = [i8042.data, i8042.command].map((device) => ({ device, ports: 1 }));
    return { buses, event: () => {}, save: () => i8042.save(), load: (state) => i8042.load(state) };
  },
  'hotplug registers': (machine) => {
    const hotplug = new PciHotplug({
      raiseGpe: machine.tell('gpe'),
      eject: (slot) => machine.tell(`eject ${slot}`)(),
      report: (...report) => machine.tell(`report ${report}`)(),
    });
    const event = (number: number) =>
      number % 2 === 0 ? hotplug.announce(1 + (number % 31)) : hotplug.requestUnplug(1 + (number % 31));
    const buses = [{ device: hotplug, ports: 16 }];
    return { buses, event, save: () => hotplug.save(), load: (state) => hotplug.load(state) };
  },
};

interface Access {
  readonly kind: 'read' | 'write';
  readonly bus: number;
  readonly port: number;
  readonly bytes: number;
  readonly value: number;
}
type Step = Access | { readonly kind: 'event' | 'wait'; readonly value: number };
const access = (kind: 'read' | 'write') =>
  fc.record({
    kind: fc.constant(kind),
    bus: fc.nat(1),
    port: fc.nat(63),
    bytes: fc.constantFrom(1, 2, 4),
    value: fc.nat(0xffff_ffff),
  });
const step: fc.Arbitrary<Step> = fc.oneof(
  access('read'),
  access('write'),
  fc.record({ kind: fc.constantFrom('event' as const, 'wait' as const), value: fc.nat(100_000) }),
);

function take(saved: Saved, machine: Machine, step: Step): unknown {
  if (!('bus' in step)) {
    if (step.kind === 'event') saved.event(step.value);
    else machine.now += step.value;
    return undefined;
  }
  const { device, ports } = saved.buses[step.bus % saved.buses.length] as Saved['buses'][number];
  const offset = step.port % ports;
  const data = new Uint8Array(Uint32Array.of(step.value).buffer).subarray(
    0,
    Math.min(step.bytes, ports - offset),
  );
  device[step.kind](offset, data);
  return [...data];
}

describe.each(Object.entries(kinds))('%s', (_name, create) => {
  test('what a guest sees after its state was loaded into another one is what it would have seen', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), fc.array(step, { maxLength: 40 }), (before, after) => {
        const [machine, other] = [new Machine(), new Machine()];
        const saved = create(machine);
        for (const each of before) take(saved, machine, each);
        const loaded = create(other);
        other.now = machine.now;
        expect(loaded.load(saved.save())).toBe(true);
        machine.told.length = other.told.length = 0;
        for (const each of after) expect(take(loaded, other, each)).toEqual(take(saved, machine, each));
        expect(other.told).toEqual(machine.told);
      }),
    );
  });

  test('any bytes are a state or are refused, and the device works', () => {
    const good = create(new Machine()).save();
    fc.assert(
      fc.property(
        fc.uint8Array({ minLength: good.length, maxLength: good.length }),
        fc.array(step),
        (state, steps) => {
          const machine = new Machine();
          const device = create(machine);
          device.load(state);
          for (const each of steps) take(device, machine, each);
        },
      ),
    );
    for (const length of [0, good.length - 1, good.length + 1])
      expect(create(new Machine()).load(new Uint8Array(length)), `${length}`).toBe(false);
  });
});
