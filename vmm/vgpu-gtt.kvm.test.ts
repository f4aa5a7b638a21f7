/** Tracked pages and the driver that uses them, on real KVM, with guests of a few instructions. */
import { expect, test } from 'vitest';
import * as gtt from '../devices/vgpu-gtt/spec.js';
import type { VcpuExit } from '../kvm/exits.js';
import { Assembler, CODE, HOLE, TestGuest } from '../kvm/testing.js';
import { gpa, PAGE_SIZE } from '../sys/address.js';
import { Mapping } from '../sys/mapping.js';
import { Scope } from '../sys/scope.js';
import { DRM_FORMAT_XRGB8888 } from '../vfio/drm.js';
import { RangeBus } from './assign/bus.js';
import { ExitDispatcher } from './assign/exit-dispatcher.js';
import { MemoryMap } from './assign/memory-map.js';
import { holdNothing, PageTrack } from './assign/page-track.js';
import { GttCard, valid } from './testing/gtt-card.js';

const PAGE = Number(PAGE_SIZE);
/** RAM beside that of the test guest's own code. */
const RAM = 0x100_0000;
const RAM_PAGES = 64;
const FLIPS = Number(process.env.TSVISOR_FLIPS ?? 200);
/** What fits beside the code of the guest. */
const FLIPS_PER_RUN = 500;

function tracked(scope: Scope) {
  const guest = scope.own(TestGuest.create());
  const memory = scope.own(new MemoryMap(guest.slots));
  const before = guest.slots.count;
  memory.addRam(gpa(BigInt(RAM)), scope.own(Mapping.huge(RAM_PAGES * PAGE)));
  const track = scope.own(new PageTrack({ memory, reference: guest.vm.reference, hold: holdNothing }));
  const mmio = new RangeBus('mmio');
  const exits = new ExitDispatcher(new RangeBus('pio'), mmio, track);
  const ram = memory.ram(BigInt(RAM), RAM_PAGES * PAGE);
  /** Runs the code to its HLT. Returns the exits before it. */
  const run = (code: Assembler): readonly VcpuExit['kind'][] => {
    const bytes = code.hlt().assemble();
    guest.bytes(CODE, bytes.length).set(bytes);
    guest.vcpu.setRegs({ rip: BigInt(CODE), rsp: 0x10000n, rflags: 2n });
    const kinds: VcpuExit['kind'][] = [];
    for (;;) {
      const exit = guest.run();
      if (exit.kind === 'hlt') return kinds;
      kinds.push(exit.kind);
      expect(exits.dispatch(0, exit), exit.kind).toBe(true);
    }
  };
  return { guest, memory, track, mmio, ram, run, slotsOf: () => guest.slots.count - before };
}

test('a write to a tracked page costs one exit and is in memory when the listener hears of it; other writes, and all reads, cost none', () => {
  using scope = new Scope();
  const { track, ram, run, slotsOf } = tracked(scope);
  const heard: string[] = [];
  track.pageTrackRegisterNotifier({
    name: 'test',
    trackWrite: (at, data) => {
      const start = Number(at) - RAM;
      heard.push(`${start.toString(16)}=${[...data]}`);
      expect([...ram.subarray(start, start + data.length)]).toEqual([...data]);
    },
    trackRemoveRegion: () => {},
  });
  track.writeTrackAddGfn(BigInt(RAM / PAGE + 2), 2n);
  expect(slotsOf()).toBe(3);
  const code = new Assembler();
  for (const page of [0, 1, 4, 63])
    for (const width of [1, 2, 4, 8] as const) code.poke(RAM + page * PAGE + 8, 5, width);
  expect(run(code)).toEqual([]);
  const writes = new Assembler()
    .poke(RAM + 0x2000, 0x0807060504030201n, 8)
    .poke(RAM + 0x3ffc, 9, 4)
    .poke(RAM + 0x2ffe, 7, 2);
  writes.poke(RAM + 0x3000, 6, 1).incq(RAM + 0x2000);
  expect(run(writes)).toEqual(['mmio', 'mmio', 'mmio', 'mmio', 'mmio']);
  expect(heard).toEqual([
    '2000=1,2,3,4,5,6,7,8',
    '3ffc=9,0,0,0',
    '2ffe=7,0',
    '3000=6',
    '2000=2,2,3,4,5,6,7,8',
  ]);
  expect(
    run(
      new Assembler()
        .peek(RAM + 0x2000, 8)
        .mov('rbx', RAM + 0x5000)
        .store(8),
    ),
  ).toEqual([]);
  expect([...ram.subarray(0x5000, 0x5008)]).toEqual([2, 2, 3, 4, 5, 6, 7, 8]);
  track.writeTrackRemoveGfn(BigInt(RAM / PAGE + 2), 2n);
  expect(slotsOf()).toBe(1);
  expect(run(new Assembler().poke(RAM + 0x2000, 1, 8))).toEqual([]);
  expect([heard.length, ram[0x2000]]).toEqual([5, 1]);
});

test(`over ${FLIPS} page flips of a guest with random updates of its table, every picture is right, and each update and register costs one exit`, () => {
  using scope = new Scope();
  const { guest, track, ram, run, mmio } = tracked(scope);
  const [tablePage, entries] = [60, 300];
  const firstPage = RAM / PAGE;
  for (let i = 0; i < 32 * PAGE; i++) ram[i] = Math.imul(i, 2654435761) >>> 24;
  using offered = guest.vm.offerGuest(track);
  expect(offered).toBeDefined();
  using card = new GttCard();
  card.setKvm(guest.vm.reference);
  card.open();

  const seed = Number(process.env.TSVISOR_SEED ?? Date.now() % 2 ** 31);
  let state = seed;
  const below = (end: number): number => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return Math.floor((state / 2 ** 32) * end);
  };
  const model = new Map<number, bigint>();
  const pending: {
    readonly updates: [number, bigint][];
    readonly width: number;
    readonly height: number;
    readonly base: number;
  }[] = [];
  let flips = 0;
  const check = (): void => {
    const { updates, width, height, base } = pending[flips] as (typeof pending)[number];
    flips++;
    for (const [index, entry] of updates) model.set(index, entry);
    const wanted = new Uint8Array(height * width * 4);
    for (let i = 0; i < wanted.length; i++) {
      const entry = model.get(Math.floor((base + i) / PAGE)) ?? 0n;
      const at = Number(entry & gtt.ENTRY_ADDRESS) - RAM;
      if (entry !== 0n && at >= 0 && at < ram.length) wanted[i] = ram[at + ((base + i) % PAGE)] as number;
    }
    const shown = card.picture();
    expect(shown !== undefined && Buffer.compare(shown, wanted) === 0, `flip ${flips} of seed ${seed}`).toBe(
      true,
    );
  };
  mmio.add(BigInt(HOLE), PAGE_SIZE, {
    name: 'registers of vgpu-gtt',
    read: (at, data) => void card.ops.read(gtt.REGISTER_BAR, at, data),
    write: (at, data) => {
      card.ops.write(gtt.REGISTER_BAR, at, data);
      if (at === gtt.REG_FLIP) check();
    },
  });

  const setUp = new Assembler();
  for (const [register, value] of [
    [gtt.REG_GTT_BASE_LO, RAM + tablePage * PAGE],
    [gtt.REG_GTT_ENTRIES, entries],
    [gtt.REG_FORMAT, DRM_FORMAT_XRGB8888],
    [gtt.REG_CONTROL, gtt.CONTROL_GTT | gtt.CONTROL_DISPLAY], // tracked while this exit is handled
  ] as const)
    setUp.poke(HOLE + register, value);
  expect(run(setUp)).toHaveLength(4);
  expect(card.get(gtt.REG_STATUS)).toBe(gtt.STATUS_READY);

  while (flips < FLIPS) {
    let code = new Assembler();
    let writes = 0;
    for (let i = 0; i < Math.min(FLIPS_PER_RUN, FLIPS - flips); i++) {
      const updates = Array.from({ length: below(5) }, (): [number, bigint] => {
        const kind = below(8);
        return [
          below(entries),
          kind === 0 ? 0n : kind === 1 ? valid(below(1 << 24)) : valid(firstPage + below(48)),
        ];
      });
      const [width, height] = [1 + below(200), 1 + below(30)];
      const base = 4 * below((entries * PAGE - height * width * 4) / 4);
      pending.push({ updates, width, height, base });
      for (const [index, entry] of updates) code = code.poke(RAM + tablePage * PAGE + index * 8, entry, 8);
      for (const [register, value] of [
        [gtt.REG_BASE, base],
        [gtt.REG_STRIDE, 4 * width],
        [gtt.REG_SIZE, width | (height << 16)],
        [gtt.REG_FLIP, 1],
      ] as const)
        code = code.poke(HOLE + register, value);
      writes += updates.length + 4;
    }
    expect(run(code).length).toBe(writes);
  }
  expect(card.get(gtt.REG_FLIP)).toBe(FLIPS);
  expect(card.get(gtt.REG_UPDATES)).toBe(pending.flatMap(({ updates }) => updates).length);
});
