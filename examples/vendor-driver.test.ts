import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { vfioConformance } from 'tsvisor/testing';
import {
  drainEventfd,
  Fd,
  type Iova,
  Mapping,
  Scope,
  VFIO_DMA_MAP_FLAG_READ,
  VFIO_DMA_MAP_FLAG_WRITE,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_PCI_MSI_IRQ_INDEX,
  VFIO_PCI_REQ_IRQ_INDEX,
  VFIO_TYPE1v2_IOMMU,
  VfioCore,
} from 'tsvisor/vfio';
import { describe, expect, test } from 'vitest';
import { plugin } from './vendor-driver.js';

const BASE = 0x10_0000n as Iova;
const [COUNT, ADDRESS, THROW, STATUS] = [0x04, 0x08, 0x10, 0x14] as const;
const [CONFIG, REGISTERS, TALLY] = [7, 0, 2] as const;
const COMMAND = 4;
const noEventThread = {
  run() {
    throw new Error('dice have no event task');
  },
};

/** A card that was opened as a machine would, and the memory of a guest. */
class Table implements Disposable {
  readonly #scope: Scope;
  readonly core: VfioCore;
  readonly memory: Mapping;
  readonly file: ReturnType<ReturnType<VfioCore['provider']['groups']['openGroup']>['getDeviceFd']>;
  readonly device: ReturnType<VfioCore['provider']['resolve']>;

  constructor(options: Readonly<Record<string, string>> = {}) {
    using scope = new Scope();
    this.core = scope.own(new VfioCore());
    for (const driver of plugin.vendorDrivers ?? [])
      scope.own(this.core.registerVendorDriver(driver, { eventThread: noEventThread }));
    const { provider } = this.core;
    this.memory = scope.own(Mapping.anonymous(0x4000));
    this.device = scope.own(provider.resolve('dice', options));
    const container = scope.own(provider.groups.openContainer());
    const group = scope.own(provider.groups.openGroup(this.device.group));
    group.setContainer(container);
    container.setIommu(VFIO_TYPE1v2_IOMMU);
    const flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
    container.mapDma({ flags, vaddr: this.memory.hva, iova: BASE, size: BigInt(this.memory.bytes) });
    this.file = scope.own(group.getDeviceFd(this.device.name));
    this.write(CONFIG, COMMAND, 6, 2);
    this.#scope = scope.move();
  }

  #at(region: number, offset: number): number {
    return this.file.getRegionInfo(region).offset + offset;
  }

  read(region: number, offset: number, bytes = 4): number {
    const data = new Uint8Array(bytes);
    this.file.read(this.#at(region, offset), data);
    return data.reduceRight((value, byte) => value * 256 + byte, 0);
  }

  write(region: number, offset: number, value: number, bytes = 4): void {
    const data = Uint8Array.from({ length: bytes }, (_, i) => Math.floor(value / 256 ** i) & 0xff);
    this.file.write(this.#at(region, offset), data);
  }

  /** An eventfd behind one of the card's interrupts. */
  irq(index: number): Fd {
    const fd = this.#scope.own(Fd.eventfd('irq'));
    const flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
    this.file.setIrqs({ index, flags, start: 0, count: 1, data: [fd.number] });
    return fd;
  }

  throw(count: number, address: bigint): void {
    this.write(REGISTERS, COUNT, count);
    this.write(REGISTERS, ADDRESS, Number(address & 0xffffffffn));
    this.write(REGISTERS, ADDRESS + 4, Number(address >> 32n));
    this.write(REGISTERS, THROW, 1);
  }

  /** The page of tallies, mapped. */
  tally(): Mapping {
    return this.#scope.own(this.file.mmap(this.#at(TALLY, 0), 4096));
  }

  [Symbol.dispose](): void {
    this.#scope[Symbol.dispose]();
  }
}

test('each piece of code in the guide stands in the example word for word', () => {
  const guide = readFileSync(new URL('../docs/vendor-driver.md', import.meta.url), 'utf8');
  const source = readFileSync(new URL('./vendor-driver.ts', import.meta.url), 'utf8');
  const pieces = [...guide.matchAll(/^```ts\n(.*?)^```$/gms)].map(([, code]) => code as string);
  expect(pieces.length).toBeGreaterThan(10);
  expect(pieces.filter((piece) => !source.includes(piece))).toEqual([]);
});

test('the guest finds the card, throws, has the results in its memory and an interrupt for them', () => {
  using table = new Table({ sides: '20' });
  expect(table.read(CONFIG, 0)).toBe(0xd1ce1234);
  expect(table.read(REGISTERS, 0)).toBe(20);
  const irq = table.irq(VFIO_PCI_MSI_IRQ_INDEX);
  table.throw(3000, BASE + 0x100n);
  expect(table.read(REGISTERS, STATUS)).toBe(1);
  expect(drainEventfd(irq.number)).toBe(1n);
  const memory = table.memory.view.slice(0, 0x4000);
  const results = [...memory.subarray(0x100, 0x100 + 3000)];
  expect(results.every((side) => side >= 1 && side <= 20)).toBe(true);
  expect(new Set(results).size).toBe(20);
  expect([memory[0xff], memory[0x100 + 3000]]).toEqual([0, 0]);
  const { buffer, byteOffset } = table.tally().view.slice(0, 4096);
  const tally = new Uint32Array(buffer, byteOffset, 21);
  for (let side = 1; side <= 20; side++)
    expect(tally[side]).toBe(results.filter((result) => result === side).length);
  expect(table.read(TALLY, 4)).toBe(tally[1]);
  expect(table.device.counters?.()).toEqual({ throws: 3000 });
});

test.each([
  ['outside of its memory', 10, 0x9000_0000n],
  ['across its end', 100, BASE + 0x3fffn],
  ['at the end of the world', 10, 0xffff_ffff_ffff_fffen],
])('dice thrown %s change nothing, and the status says that they failed', (_where, count, address) => {
  using table = new Table();
  table.throw(count, address);
  expect(table.read(REGISTERS, STATUS)).toBe(2);
  expect(table.memory.view.slice(0, 0x4000).every((byte) => byte === 0)).toBe(true);
});

test('without bus mastering the card reaches no memory, without memory decoding it does not answer', () => {
  using table = new Table();
  table.write(CONFIG, COMMAND, 2, 2);
  table.throw(1, BASE);
  expect(table.read(REGISTERS, STATUS)).toBe(2);
  table.write(CONFIG, COMMAND, 0, 2);
  expect(table.read(REGISTERS, 0)).toBe(0xffffffff);
});

test('whatever is written to it, the card answers every read and writes nothing but its results', () => {
  const access = fc.record({
    region: fc.constantFrom(CONFIG, REGISTERS, TALLY),
    offset: fc.integer({ min: 0, max: 0x1c }),
    bytes: fc.constantFrom(1, 2, 4, 8),
    value: fc.nat(),
  });
  fc.assert(
    fc.property(fc.array(access, { maxLength: 50 }), (accesses) => {
      using table = new Table();
      for (const { region, offset, bytes, value } of accesses) {
        table.write(region, offset, value, bytes);
        table.read(region, offset, bytes);
      }
      expect(table.read(CONFIG, 0)).toBe(0xd1ce1234);
    }),
    { numRuns: 100 },
  );
});

test('the request reaches the user, and options that make no sense are EINVAL', () => {
  using table = new Table();
  const request = table.irq(VFIO_PCI_REQ_IRQ_INDEX);
  const [mdev] = table.core.mdevs.devices;
  mdev?.instance.ops.request?.(0);
  expect(drainEventfd(request.number)).toBe(1n);
  expect(() => new Table({ sides: '1' })).toThrowError(/EINVAL\n.*sides: 1 is not a number from 2 to 255/);
  expect(() => new Table({ colour: 'red' })).toThrowError(/EINVAL\n.*unknown option colour/);
});

describe('the card keeps the rules of the uAPI', () => {
  const names = vfioConformance({} as Parameters<typeof vfioConformance>[0]).map(({ name }) => name);
  test.each(names)('%s', (name) => {
    using scope = new Scope();
    const core = scope.own(new VfioCore());
    for (const driver of plugin.vendorDrivers ?? [])
      scope.own(core.registerVendorDriver(driver, { eventThread: noEventThread }));
    const memory = scope.own(Mapping.anonymous(0x10000));
    const target = { provider: core.provider, address: 'dice', memory, unusedGroup: 9999 };
    vfioConformance(target)
      .find((each) => each.name === name)
      ?.run();
  });
});
