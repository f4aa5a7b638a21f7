import fc from 'fast-check';
import { expect, test } from 'vitest';
import { SysError } from '../../sys/error.js';
import { diceOf } from '../../sys/testing/random.js';
import { VfioCore } from '../../vfio/core/core.js';
import type { MdevParentState } from '../../vfio/driver.js';
import { type Share, VgpuCard } from './card.js';
import { createVgpuDriver } from './driver.js';
import { PLACEMENT_POLICIES, type PlacementPolicy } from './placement.js';

const SEED = Number(process.env.TSVISOR_POOL_SEED ?? Date.now() & 0x7fff_ffff);
/** By policy. */
const OPERATIONS = [
  ['mixed-size', 10_000],
  ['same-size', 2_000],
  ['first-fit', 2_000],
] as const;
const eventThread = {
  run: () => {
    throw new RangeError('a display has no task');
  },
};

/** What an account says of memory and engines, as numbers. */
function partsOf(state: MdevParentState) {
  return state.instances.map(({ uuid, type, uses }) => {
    const [, size, offset] = /^(\d+) MiB at (\d+) MiB$/.exec(uses['video memory'] ?? '') ?? [];
    const engines = (uses.engines ?? '').split(', ').flatMap((range) => {
      const [first = 0, last = first] = range.split('-').map(Number);
      return Array.from({ length: last - first + 1 }, (_, i) => first + i);
    });
    return { uuid, type, offset: Number(offset), size: Number(size), engines };
  });
}

const totals = (state: MdevParentState) => state.resources.map(({ total, left }) => [total, left] as const);

/** Nothing is given twice, and what is left is the rest. */
function expectWhole(state: MdevParentState): void {
  const parts = partsOf(state);
  const [memory, engines] = totals(state);
  const [memoryTotal = 0, memoryLeft = 0] = memory ?? [];
  const [enginesTotal = 0, enginesLeft = 0] = engines ?? [];
  const ends = parts.map(({ offset, size }) => offset + size);
  const given = parts.flatMap((part) => part.engines);
  expect({
    overlaps: parts.filter(({ offset }, i) => offset < (ends[i - 1] ?? 0)),
    isInside: (ends.at(-1) ?? 0) <= memoryTotal,
    memoryLeft,
    enginesLeft,
    engines: new Set(given).size,
    strangers: given.filter((engine) => !(engine >= 0 && engine < enginesTotal)),
  }).toEqual({
    overlaps: [],
    isInside: true,
    memoryLeft: parts.reduce((left, { size }) => left - size, memoryTotal),
    enginesLeft: enginesTotal - given.length,
    engines: given.length,
    strangers: [],
  });
}

const share: fc.Arbitrary<Share> = fc.record({
  memoryMib: fc.integer({ min: 1, max: 256 }),
  engines: fc.integer({ min: 1, max: 12 }),
});
/** A share to take, or the number of a part to give back. */
const step = fc.oneof({ weight: 2, arbitrary: share }, { weight: 1, arbitrary: fc.nat(40) });

test.each(PLACEMENT_POLICIES.map(({ name }) => name))(
  '%s: whatever is taken and given back, no two parts overlap, the sums are right, and all comes back',
  (placement) => {
    const card = fc.record({
      memoryMib: fc.constantFrom(64, 128, 256),
      engines: fc.integer({ min: 1, max: 40 }),
    });
    fc.assert(
      fc.property(card, fc.array(step, { maxLength: 60 }), (given, steps) => {
        const made = new VgpuCard({ name: 'card', placement, ...given });
        const held: Disposable[] = [];
        for (const [i, each] of steps.entries()) {
          if (typeof each === 'number') {
            for (const part of held.splice(each % (held.length || 1), 1)) part[Symbol.dispose]();
          } else {
            // Counting predicts what the card does, and as many as it says follow each other.
            const most = made.available(each);
            const part = attempt(() => made.take('part', `uuid ${i}`, each));
            expect(part instanceof SysError).toBe(most === 0);
            if (!(part instanceof SysError)) {
              expect(made.available(each)).toBe(most - 1);
              held.push(part);
            }
          }
          expectWhole(made.state([]));
        }
        for (const part of held) part[Symbol.dispose]();
        expect(made.state([])).toEqual(new VgpuCard({ name: 'card', placement, ...given }).state([]));
      }),
      { seed: SEED },
    );
  },
);

function attempt<T>(action: () => T): T | SysError {
  try {
    return action();
  } catch (error) {
    if (error instanceof SysError) return error;
    throw error;
  }
}

test.each(OPERATIONS)(
  `by %s, %d devices of three cards made and removed in random order (seed ${SEED}): nothing is given twice, all comes back`,
  (placement, operations) => {
    const dice = diceOf(SEED);
    const core = new VfioCore();
    const cards = [
      { name: 'a', placement },
      { name: 'b', placement, memoryMib: 128, engines: 6 },
      { name: 'c', placement, memoryMib: 64 },
    ];
    const registered = core.registerVendorDriver(createVgpuDriver({ cards }), { eventThread });
    const empty = core.mdevs.parents;
    const { types } = core.mdevs;
    let [made, refused] = [0, 0];
    for (let i = 0; i < operations; i++) {
      const { devices } = core.mdevs;
      if (devices.length > 0 && dice(100) < 45) {
        const { uuid } = devices[dice(devices.length)] as (typeof devices)[number];
        core.run(core.mdevs.remove(uuid));
      } else {
        const type = types[dice(types.length)] as (typeof types)[number];
        const left = core.mdevs.availableInstances(type);
        const result = attempt(() => core.run(core.mdevs.create(type.name)));
        expect(result instanceof SysError, `operation ${i}, ${type.name}, ${left} left`).toBe(left === 0);
        if (result instanceof SysError) {
          expect(result.message).toMatch(/ENOSPC\n.*takes \d+ MiB.*are left/s);
          refused++;
        } else made++;
      }
      if (i % 50 > 0) continue;
      const states = core.mdevs.parents;
      states.forEach(expectWhole);
      const uuids = states.flatMap(({ instances }) => instances.map(({ uuid }) => uuid));
      expect(uuids.sort()).toEqual(core.mdevs.devices.map(({ uuid }) => uuid).sort());
    }
    expect(Math.min(made, refused)).toBeGreaterThan(100);
    for (const { uuid } of core.mdevs.devices) core.run(core.mdevs.remove(uuid));
    expect(core.mdevs.parents).toEqual(empty);
    registered[Symbol.dispose]();
    core[Symbol.dispose]();
    expect([...core.live]).toEqual([]);
  },
);

const take = (card: VgpuCard, ...sizes: number[]) =>
  sizes.map((memoryMib, i) => card.take('part', `uuid ${i}`, { memoryMib, engines: 1 }));
const offsets = (card: VgpuCard) => partsOf(card.state([])).map(({ offset }) => offset);
const available = (card: VgpuCard, memoryMib: number) => card.available({ memoryMib, engines: 1 });

test('same-size: the first instance decides the size of all others, until the last is gone', () => {
  const card = new VgpuCard({ name: 'card', placement: 'same-size' });
  const parts = take(card, 64, 64);
  expect([available(card, 64), available(card, 8), available(card, 128)]).toEqual([2, 0, 0]);
  expect(() => take(card, 8)).toThrowError(
    /ENOSPC\n.*takes 8 MiB and 1 engine; of card, 128 MiB of 256 are left.*one size, and there are some of 64 MiB/,
  );
  for (const part of parts) part[Symbol.dispose]();
  expect(available(card, 8)).toBe(32);
});

test('mixed-size: small instances go where no large block is broken up', () => {
  const card = new VgpuCard({ name: 'card', placement: 'mixed-size' });
  const [first] = take(card, 128, 8, 64, 16);
  expect(offsets(card)).toEqual([0, 128, 144, 192]);
  first?.[Symbol.dispose]();
  take(card, 8, 32);
  expect(offsets(card)).toEqual([128, 136, 144, 160, 192]);
  expect(available(card, 128)).toBe(1);
});

test('first-fit: instances lie at the lowest offset, and holes can be too small for what is left in all', () => {
  const card = new VgpuCard({ name: 'card', placement: 'first-fit' });
  const [first, , third] = take(card, 60, 68, 60, 68);
  expect(offsets(card)).toEqual([0, 60, 128, 188]);
  first?.[Symbol.dispose]();
  third?.[Symbol.dispose]();
  expect(available(card, 60)).toBe(2);
  expect(() => take(card, 100)).toThrowError(/ENOSPC\n.*120 MiB of 256 are left.*no hole of 100 MiB/);
});

test('engines run out as memory does, and the error says which it was, and who has them', () => {
  const card = new VgpuCard({ name: 'card', engines: 2 });
  take(card, 8, 8);
  expect(available(card, 8)).toBe(0);
  expect(() => card.take('part', 'third', { memoryMib: 8, engines: 1 })).toThrowError(
    /mdev create on part third: ENOSPC\n.*240 MiB of 256 are left, and 0 engines of 2: too few engines; the rest is held by part uuid 0 \(8 MiB\), part uuid 1 \(8 MiB\)$/,
  );
});

test.each([
  [-1, 'which is no offset in the card'],
  [0.5, 'which is no offset in the card'],
  [Number.NaN, 'which is no offset in the card'],
  [250, 'which is no offset in the card'],
  [7, "which is an instance's, 0 to 8"],
])('a policy that answers %d has its error named, and the account stays as it was', (answer, what) => {
  let next = 0;
  const policy: PlacementPolicy = { name: 'mine', place: () => next };
  const card = new VgpuCard({ name: 'card', placement: 'mine' }, [policy]);
  take(card, 8);
  const before = card.state([]);
  next = answer;
  expect(() => take(card, 8)).toThrowError(`EPROTO`);
  expect(() => take(card, 8)).toThrowError(what);
  expect(card.state([])).toEqual(before);
});

test.each([
  [{ name: 'a b' }, /a name has 1 to 32/],
  [{ name: 'a', memoryMib: 100 }, /memory: 100 MiB is none of 64, 128, 256/],
  [{ name: 'a', engines: 0 }, /engines: 0 is not a number from 1 to 1024/],
  [{ name: 'a', placement: 'best' }, /placement: 'best' is none of mixed-size, same-size, first-fit/],
])('a card %j cannot be', (options, problem) => {
  expect(() => createVgpuDriver({ cards: [options] })).toThrowError(problem);
});

test('cards have names of their own, and there is at least one', () => {
  expect(() => createVgpuDriver({ cards: [{ name: 'a' }, { name: 'a' }] })).toThrowError(/two cards named a/);
  expect(() => createVgpuDriver({ cards: [] })).toThrowError(/0 cards: 1 to 16 can be/);
});

test('a device is on the card that is asked for, or on the first with room', () => {
  const cards = [{ name: 'a', memoryMib: 64 }, { name: 'b' }];
  const driver = createVgpuDriver({ cards });
  const type = (name: string) => driver.types.find((each) => each.name === `vgpu-${name}`) as never;
  const create = (name: string, options = {}) =>
    driver.create(type(name), `a ${name}`, options, { eventThread });
  const on = () => driver.parents?.().map(({ instances }) => instances.map((each) => each.type));
  const all = [create('small', { card: 'b' }), create('whole'), create('half')];
  expect(on()).toEqual([['vgpu-whole'], ['vgpu-small', 'vgpu-half']]);
  expect(() => create('small', { card: 'a' })).toThrowError(/ENOSPC\n.*of a, 0 MiB of 64 are left/);
  expect(() => create('small', { card: 'c' })).toThrowError(
    /EINVAL\n.*there is no card 'c'; there are: a, b/,
  );
  expect(driver.checkOptions?.(type('half'), { card: 'a', xres: '4095', yres: '4095' })).toMatch(
    /4095x4095 needs more than the 32 MiB of vgpu-half/,
  );
  expect(driver.checkOptions?.(type('half'), { xres: '4095', yres: '4095' })).toBeUndefined();
  expect(all[0]?.parent?.().name).toBe('b');
  for (const each of all) each[Symbol.dispose]();
  expect(on()).toEqual([[], []]);
});

test('shares have a part of memory and engines, and the largest mode that fits twice', () => {
  const driver = createVgpuDriver({ cards: [{ name: 'a', memoryMib: 128, engines: 9 }] });
  const rows = driver.types.map((type) => [type.name, type.maxInstances, type.description]);
  expect(rows.slice(3)).toEqual([
    ['vgpu-whole', 1, 'whole of a display card, with 128 MiB, bochs-display, 3840x2160 (xres=, yres=)'],
    ['vgpu-half', 2, 'half of a display card, with 64 MiB, bochs-display, 3840x2160 (xres=, yres=)'],
    ['vgpu-quarter', 4, 'quarter of a display card, with 32 MiB, bochs-display, 2560x1440 (xres=, yres=)'],
    ['vgpu-eighth', 8, 'eighth of a display card, with 16 MiB, bochs-display, 1920x1080 (xres=, yres=)'],
  ]);
  const [account] = driver.parents?.() ?? [];
  expect(account?.availableInstances).toMatchObject({ 'vgpu-small': 9, 'vgpu-half': 2, 'vgpu-eighth': 8 });
});
