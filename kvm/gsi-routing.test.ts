import { expect, test } from 'vitest';
import { GsiRouting, type GsiRoutingOptions } from './gsi-routing.js';
import { IrqRoutingEntry, KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI } from './uapi.js';
import type { Vm } from './vm.js';

/** A routing whose tables are recorded as text: `GSI: irqchip.pin`, or `GSI: address data` of a message. */
function routing(options: GsiRoutingOptions) {
  const tables: string[][] = [];
  const state = { isOpen: true, isFailing: false };
  const vm = {
    fd: state,
    setGsiRouting(entries: readonly Uint8Array[]) {
      if (state.isFailing) throw new RangeError('it fails');
      tables.push(
        entries.map((entry) => {
          const { gsi, type, u } = IrqRoutingEntry.decode(entry);
          if (type === KVM_IRQ_ROUTING_IRQCHIP) return `${gsi}: ${u[0]}.${u[1]}`;
          expect(type).toBe(KVM_IRQ_ROUTING_MSI);
          return `${gsi}: ${u[1]?.toString(16)}:${u[0]?.toString(16)} ${u[2]}`;
        }),
      );
    },
  };
  return { tables, state, routes: GsiRouting.create(vm as unknown as Vm, options) };
}

const none = { isIoapicRouted: false, isPicRouted: false };
const ioapic = Array.from({ length: 24 }, (_, gsi) => `${gsi}: 2.${gsi}`);
const pics = Array.from({ length: 16 }, (_, gsi) => `${gsi}: ${gsi < 8 ? 0 : 1}.${gsi % 8}`);

test.each([
  { options: none, is: [], count: 0 },
  { options: { ...none, isIoapicRouted: true }, is: ioapic, count: 24 },
  { options: { ...none, isPicRouted: true }, is: pics, count: 16 },
  {
    options: { isIoapicRouted: true, isPicRouted: true },
    is: ioapic.flatMap((route, gsi) => [route, ...pics.slice(gsi, gsi + 1)]),
    count: 24,
  },
])('by $options, each of $count GSIs goes to the pins of its number', ({ options, is, count }) => {
  const { tables, routes } = routing(options);
  expect(tables).toEqual([is]);
  expect(routes.count).toBe(count);
});

test('messages have the lowest GSIs above the IOAPIC’s that are free, and all bits of their address', () => {
  const { tables, routes } = routing(none);
  const [a, b] = [0, 1].map((data) => routes.addMsi({ address: 0x1234_5678_9abc_def0n, data }));
  expect([a?.gsi, b?.gsi, routes.count]).toEqual([24, 25, 2]);
  expect(tables.at(-1)).toEqual(['24: 12345678:9abcdef0 0', '25: 12345678:9abcdef0 1']);
  a?.update({ address: 0xfee0_0000n, data: 7 });
  expect(tables.at(-1)).toEqual(['24: 0:fee00000 7', '25: 12345678:9abcdef0 1']);
  a?.[Symbol.dispose]();
  const count = tables.length;
  a?.[Symbol.dispose]();
  expect(tables).toHaveLength(count);
  expect(tables.at(-1)).toEqual(['25: 12345678:9abcdef0 1']);
  expect(() => a?.update({ address: 0n, data: 0 })).toThrow(/^GSI 24 was released$/);
  expect(routes.addMsi({ address: 0n, data: 3 }).gsi).toBe(24);
});

test.each([-1, 24, Number.NaN])('GSI %s is no pin of the IOAPIC', (gsi) => {
  const { routes, tables } = routing(none);
  expect(() => routes.set(gsi, [])).toThrow(RangeError);
  for (const pin of [0, 23]) routes.set(pin, [{ kind: 'pin', irqchip: 2, pin }]);
  expect(tables.at(-1)).toEqual(['0: 2.0', '23: 2.23']);
  routes.set(0, []);
  expect([tables.at(-1), routes.count]).toEqual([['23: 2.23'], 1]);
});

test('a batch is one change, which fails as a whole and is followed by others', () => {
  const { routes, tables, state } = routing(none);
  const add = (data: number) => routes.addMsi({ address: 0n, data });
  routes.batch(() => {
    add(1);
    routes.batch(() => add(2));
    expect(tables).toHaveLength(1);
  });
  expect(tables.slice(1)).toEqual([['24: 0:0 1', '25: 0:0 2']]);
  const fails = (): void => {
    add(3);
    throw new RangeError('it fails');
  };
  expect(() => routes.batch(fails)).toThrow('it fails');
  state.isFailing = true;
  expect(() => add(4)).toThrow('it fails');
  state.isFailing = false;
  expect(routes.count).toBe(2);
  add(5);
  expect(tables.slice(2)).toEqual([['24: 0:0 1', '25: 0:0 2', '26: 0:0 5']]);
});

test('after the VM is closed, a route can be released', () => {
  const { routes, tables, state } = routing(none);
  const route = routes.addMsi({ address: 0n, data: 1 });
  state.isOpen = false;
  route[Symbol.dispose]();
  expect([routes.count, tables.length]).toEqual([0, 2]);
});
