import { describe, expect, test } from 'vitest';
import { createSharedMemory } from '../../../sys/mapping.js';
import { VfioCore } from '../../../vfio/core/core.js';
import type { VfioDeviceOps } from '../../../vfio/driver.js';
import { VFIO_REGION_INFO_FLAG_MMAP } from '../../../vfio/uapi.js';
import { openForClient } from '../../../vfio/user/index.js';
import { PciRegions } from '../../mdev/pci-regions.js';
import { registerAccess } from '../../mdev/region-access.js';
import { RegionOps } from '../../mdev/region-ops.js';
import { ConfigSpace } from '../../pci/config-space.js';
import { PCI_COMMAND, PCI_COMMAND_MEMORY } from '../../pci/pci-regs.js';
import type { Register } from './register-map.js';
import { RegisterWatch, spinningText, watchOf } from './register-watch.js';

const [ID, CONTROL, STATUS, FIFO] = [0x00, 0x04, 0x08, 0x0c] as const;

const registers: readonly Register[] = [
  { name: 'ID', region: 0, offset: ID, access: 'ro', reset: 0x1234_5678 },
  { name: 'CONTROL', region: 0, offset: CONTROL, reset: 0 },
  { name: 'STATUS', region: 0, offset: STATUS, size: 2, reset: 1 },
  { name: 'FIFO', region: 0, offset: FIFO, isFifo: true },
  { name: 'KEY', region: 0, offset: 0x10, access: 'wo' },
  { name: 'MODE', region: 0, offset: 0x14, isModelled: false },
  { name: 'WIDE', region: 0, offset: 0x20, size: 8 },
  { name: 'TUNING', region: 7, offset: 0x44, size: 1 },
];

function createConfig(): ConfigSpace {
  const space = new ConfigSpace();
  space.set(PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
  space.allow(0x44, 1, 0xff);
  return space;
}

/** A card with registers in BAR 0, whose status a test sets, and memory in BAR 2. */
class Card extends RegionOps implements VfioDeviceOps {
  readonly name = 'card';
  readonly #memory = createSharedMemory('card', 8192);
  status = 1;
  isOpen = false;
  protected readonly regions = new PciRegions('card', {
    config: { create: createConfig },
    bars: [
      {
        index: 0,
        size: 8192,
        memory: this.#memory,
        areas: [
          {
            offset: 0,
            size: 0x40,
            ...registerAccess({
              read: (at) => (at < CONTROL ? 0x1234_5678 >>> (8 * at) : at === STATUS ? this.status : 0),
              write: () => {},
            }),
            ioFds: [{ offset: 0x30, size: 4, fd: 99 }],
          },
        ],
      },
      { index: 2, size: 4096, memory: this.#memory },
    ],
  });

  openDevice(): void {
    this.isOpen = true;
    this.regions.resetConfig();
  }

  turn(): void {
    this.status ^= 2;
  }

  closeDevice(): void {
    this.isOpen = false;
  }

  getIrqInfo(index: number) {
    return { index, flags: 0, count: 0 };
  }

  setIrqs(): void {}

  [Symbol.dispose](): void {
    this.#memory[Symbol.dispose]();
  }
}

/** An open card under a watch, and a driver's accesses to it. */
class Bench implements Disposable {
  readonly card = new Card();
  readonly watch: RegisterWatch;
  readonly ops: Card;
  time = 0;

  constructor(options: Partial<ConstructorParameters<typeof RegisterWatch>[0]> = {}) {
    this.watch = new RegisterWatch({ registers, now: () => this.time, ...options });
    this.ops = this.watch.around(this.card);
    this.ops.openDevice();
  }

  read(offset: number, bytes = 4, region = 0): number {
    const data = new Uint8Array(bytes);
    this.ops.read(region, offset, data);
    return data.reduceRight((value, byte) => value * 256 + byte, 0);
  }

  write(offset: number, value: number, bytes = 4, region = 0): void {
    const data = Uint8Array.from({ length: bytes }, (_, i) => Math.floor(value / 256 ** i) & 0xff);
    this.ops.write(region, offset, data);
  }

  [Symbol.dispose](): void {
    this.card[Symbol.dispose]();
  }
}

describe('the trace', () => {
  test('names each access, and has what was read and written', () => {
    using bench = new Bench();
    bench.write(CONTROL, 0xff00_0001);
    bench.read(STATUS, 2);
    bench.read(ID);
    expect(bench.watch.trace.names()).toEqual(['CONTROL', 'STATUS', 'ID']);
    expect(bench.watch.trace.lines()).toEqual([
      'write CONTROL 0xff000001',
      'read STATUS 0x1',
      'read ID 0x12345678',
    ]);
    expect(bench.watch.trace.writes('CONTROL')).toEqual([0xff00_0001]);
    expect(bench.watch.trace.reads('ID')).toEqual([0x1234_5678]);
  });

  test('splits an access at the borders of registers, and halves one of eight bytes', () => {
    using bench = new Bench();
    bench.read(CONTROL, 8);
    bench.read(ID + 2, 1);
    bench.write(0x20, 0x1_0000_0002, 8);
    expect(bench.watch.trace.lines()).toEqual([
      ...['read CONTROL 0x0', 'read STATUS 0x1', 'read bar0+0xa 0x0', 'read ID+2 0x34'],
      ...['write WIDE 0x2', 'write WIDE+4 0x1'],
    ]);
  });

  test('keeps the last accesses, in order, and counts the others', () => {
    using bench = new Bench({ capacity: 3 });
    for (let value = 1; value <= 5; value++) bench.write(CONTROL, value);
    expect(bench.watch.trace.writes('CONTROL')).toEqual([3, 4, 5]);
    expect(bench.watch.trace.dropped).toBe(2);
    bench.watch.trace.clear();
    expect([bench.watch.trace.names(), bench.watch.trace.dropped]).toEqual([[], 0]);
    bench.write(CONTROL, 6);
    expect(bench.watch.trace.writes('CONTROL')).toEqual([6]);
  });

  test('has no steps for reads that repeat', () => {
    using bench = new Bench();
    for (let i = 0; i < 9; i++) bench.read(STATUS, 2);
    bench.write(CONTROL, 1);
    bench.write(CONTROL, 1);
    expect(bench.watch.trace.steps()).toEqual(['read STATUS 0x1', 'write CONTROL 0x1', 'write CONTROL 0x1']);
  });

  test('has declared registers of configuration space, and regions with a declared register', () => {
    using bench = new Bench();
    bench.read(0, 2, 7);
    bench.write(0x44, 0x77, 1, 7);
    bench.read(0, 4, 2);
    expect(bench.watch.trace.lines()).toEqual(['write TUNING 0x77']);
    expect(bench.read(0x44, 1, 7)).toBe(0x77);
  });
});

describe('the burn-down', () => {
  test('lists what the driver touched and the device lacks, with counts and the first value', () => {
    using bench = new Bench();
    bench.write(0x14, 0xaa);
    bench.write(0x14, 0xbb);
    bench.read(0x14);
    bench.read(0x1c);
    bench.read(CONTROL);
    expect(bench.watch.report().unmodelled).toEqual([
      { name: 'MODE', region: 0, offset: 0x14, size: 4, reads: 1, writes: 2, firstWritten: 0xaa },
      { name: 'bar0+0x1c', region: 0, offset: 0x1c, size: 4, reads: 1, writes: 0 },
    ]);
    expect(bench.watch.describe()).toBe(
      [
        'touched by the driver, and not modelled:',
        '  MODE             1 reads, 2 writes, first 0xaa',
        '  bar0+0x1c        1 reads, 0 writes',
      ].join('\n'),
    );
  });

  test('lists writes of read-only registers and reads of write-only ones apart', () => {
    using bench = new Bench();
    bench.write(ID, 1);
    bench.read(0x10);
    bench.write(0x10, 1);
    bench.read(ID);
    const { misused, unmodelled } = bench.watch.report();
    expect(unmodelled).toEqual([]);
    expect(misused.map(({ name, reads, writes }) => [name, reads, writes])).toEqual([
      ['ID', 0, 1],
      ['KEY', 1, 0],
    ]);
  });

  test('has room for 1024 places, and counts accesses to others', () => {
    using bench = new Bench();
    for (let at = 0x100; at < 0x100 + 1030; at++) bench.read(at, 1);
    const { unmodelled, droppedAccesses } = bench.watch.report();
    expect([unmodelled.length, droppedAccesses]).toEqual([1024, 6]);
  });

  test('is empty for a driver that does what the device answers for', () => {
    using bench = new Bench();
    bench.read(ID);
    bench.write(CONTROL, 1);
    expect(bench.watch.describe()).toBe('');
  });
});

describe('the spin watch', () => {
  const poll = (bench: Bench, times: number, ms = 0) => {
    for (let i = 0; i < times; i++, bench.time += ms) bench.read(STATUS, 2);
  };

  test('names the register that is read so often without a change, once', () => {
    const found: string[] = [];
    using bench = new Bench({ spin: { reads: 20 }, onSpin: ({ name }) => void found.push(name) });
    poll(bench, 19);
    expect(bench.watch.spin).toBeUndefined();
    poll(bench, 6, 2);
    expect(bench.watch.spin).toEqual({ name: 'STATUS', value: 1, reads: 25, ms: 10 });
    expect(found).toEqual(['STATUS']);
    expect(bench.watch.report().spins).toHaveLength(1);
    expect(spinningText(bench.ops)).toBe('STATUS reads 0x1, 25 times in 0.0 s');
    expect(bench.watch.describe()).toContain('read in vain:\n  STATUS reads 0x1, 25 times');
  });

  test('names one that is read for so long, and none that is read now and then', () => {
    using bench = new Bench({ spin: { ms: 100 } });
    poll(bench, 12, 101);
    expect(bench.watch.spin).toBeUndefined();
    poll(bench, 12, 10);
    expect(bench.watch.spin).toMatchObject({ name: 'STATUS', reads: 12 });
  });

  test.each<[string, (bench: Bench) => void]>([
    ['another value', (bench) => bench.card.turn()],
    ['a write', (bench) => bench.write(CONTROL, 1)],

    ['a FIFO that is emptied', (bench) => void bench.read(FIFO)],
  ])('%s is progress', (_what, progress) => {
    using bench = new Bench({ spin: { reads: 20 } });
    for (let i = 0; i < 10; i++) {
      poll(bench, 19);
      progress(bench);
    }
    expect(bench.watch.report().spins).toEqual([]);
  });

  test('two registers read in turn are a spin, too', () => {
    using bench = new Bench({ spin: { reads: 20 } });
    for (let i = 0; i < 30; i++) bench.read(i % 3 === 0 ? ID : STATUS);
    expect(bench.watch.spin).toMatchObject({ name: 'STATUS', reads: 20 });
  });

  test('has a list of 32, and counts the others', () => {
    using bench = new Bench({ spin: { reads: 2 } });
    for (let i = 0; i < 40; i++, bench.write(CONTROL, 1)) poll(bench, 3);
    const { spins, droppedSpins } = bench.watch.report();
    expect([spins.length, droppedSpins]).toEqual([32, 8]);
  });
});

test('reset values that the device does not have are listed, and the look leaves no trace', () => {
  using bench = new Bench();
  expect(bench.watch.resetMismatches()).toEqual([]);
  bench.card.status = 3;
  expect(bench.watch.resetMismatches()).toEqual([{ name: 'STATUS', expected: 1, got: 3 }]);
  expect(bench.watch.trace.names()).toEqual([]);
  expect(() => new RegisterWatch({ registers }).resetMismatches()).toThrow('call around() first');
});

test('a watched region is neither mapped nor has it eventfds; another one is as it was', () => {
  using bench = new Bench();
  const { card, ops } = bench;
  expect(card.getRegionInfo(0).flags & VFIO_REGION_INFO_FLAG_MMAP).not.toBe(0);
  expect(ops.getRegionInfo(0)).toMatchObject({ size: 8192, flags: 3, capabilities: [] });
  expect([card.getRegionIoFds(0).length, ops.getRegionIoFds(0).length]).toEqual([1, 0]);
  expect(ops.getRegionInfo(2)).toEqual(card.getRegionInfo(2));
});

test('functions that the device lacks stay absent, and all others are its own', () => {
  using bench = new Bench();
  expect(bench.ops.reset).toBeUndefined();
  expect((bench.ops as VfioDeviceOps).request).toBeUndefined();
  expect(bench.ops.name).toBe('card');
  expect(bench.card.isOpen).toBe(true);
  bench.ops.closeDevice();
  expect(bench.card.isOpen).toBe(false);
});

test('a driver is watched through a core as its devices are', () => {
  using card = new Card();
  const watch = new RegisterWatch({ registers });
  const driver = watch.aroundDriver({
    name: 'cards',
    types: [{ name: 'card', description: 'a card', deviceApi: 'vfio-pci', maxInstances: 1 }],
    create: () => ({ ops: card, counters: () => ({ cards: 1 }), [Symbol.dispose]() {} }),
  });
  expect(watchOf(driver)).toBe(watch);
  using core = new VfioCore();
  using _registered = core.registerVendorDriver(driver, {
    eventThread: {
      run() {
        throw new Error('a card has no event task');
      },
    },
  });
  using device = core.provider.resolve('card', {});
  expect(device.counters?.()).toEqual({ cards: 1 });
  using served = openForClient(core.provider, device);
  const data = new Uint8Array(4);
  served.device.read(served.device.getRegionInfo(0).offset + ID, data);
  expect([...data]).toEqual([0x78, 0x56, 0x34, 0x12]);
  expect(watch.trace.lines()).toEqual(['read ID 0x12345678']);
});

test.each<[string, Register[], string]>([
  [
    'one name twice',
    [
      { name: 'A', region: 0, offset: 0 },
      { name: 'A', region: 0, offset: 4 },
    ],
    'two registers have the name A',
  ],
  [
    'an overlap',
    [
      { name: 'B', region: 0, offset: 6 },
      { name: 'A', region: 0, offset: 4 },
    ],
    'registers A and B overlap',
  ],
  ['no size', [{ name: 'A', region: 0, offset: 0, size: 0 }], 'register A: the size 0'],
  ['half an offset', [{ name: 'A', region: 0, offset: 0.5 }], 'register A: the offset 0.5'],
  [
    'a reset value that is too large',
    [{ name: 'A', region: 0, offset: 0, size: 1, reset: 256 }],
    'has more than 1 bytes',
  ],
])('declarations with %s are refused', (_what, wrong, text) => {
  expect(() => new RegisterWatch({ registers: wrong })).toThrow(text);
});
