/**
 * Hostile devices in the hands of the package's own VMM parts, whose guest is no better. TSVISOR_HOSTILE_MUTATIONS: how many, for
 * all seeds together; TSVISOR_HOSTILE_SEED: the first seed.
 */
import { readdirSync } from 'node:fs';
import { expect, test } from 'vitest';
import { iova } from '../../sys/address.js';
import { InlineEventThread } from '../../sys/inline-event-thread.js';
import { createSharedMemory } from '../../sys/mapping.js';
import { Scope } from '../../sys/scope.js';
import { VfioCore } from '../../vfio/index.js';
import { VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE, VFIO_TYPE1v2_IOMMU } from '../../vfio/uapi.js';
import { start as startCard } from '../testcard/card-task.js';
import { createTestCardDriver } from '../testcard/driver.js';
import { type FakeBus, fakeEnvironment } from '../testing/fake-ports.js';
import { VfioPciDevice } from '../vfio-pci/device.js';
import { createQueueTask, createVirtioNetDriver, netBackends } from '../virtio-net/index.js';
import { Dice } from './decisions.js';
import { hostileDriver } from './hostile-driver.js';
import { start } from './interrupt-task.js';

const MUTATIONS = Number(process.env.TSVISOR_HOSTILE_MUTATIONS ?? 20_000);
const FIRST_SEED = Number(process.env.TSVISOR_HOSTILE_SEED ?? 1);
const SEEDS = [0, 1, 2, 3].map((i) => FIRST_SEED + i);
const PAGE = 0x1000;
const RAM_AT = 0x10_0000;
const RAM_BYTES = 0x4_0000;
const GUARD = 0xa5;
const WINDOW = 0xe000_0000;
const COMMAND = 0x04;

const [CARD, NIC, HOSTILE] = ['card', 'queue', 'interrupt'].map((name) => new URL(`test:${name}-task`)) as [
  URL,
  URL,
  URL,
];
const drivers = {
  testcard: () => createTestCardDriver(CARD),
  'virtio-net': () => createVirtioNetDriver({ backends: netBackends, task: NIC }),
};

/** A guest's memory, with pages around it that no device may reach. */
function guestMemory(scope: Scope) {
  const shared = scope.own(createSharedMemory('guest', RAM_BYTES + 2 * PAGE));
  const all = shared.mapping.view.slice(0, RAM_BYTES + 2 * PAGE);
  const guards = [all.subarray(0, PAGE), all.subarray(PAGE + RAM_BYTES)];
  for (const guard of guards) guard.fill(GUARD);
  return {
    vaddr: shared.mapping.hva + BigInt(PAGE),
    ram: all.subarray(PAGE, PAGE + RAM_BYTES),
    isContained: () => guards.every((guard) => guard.every((byte) => byte === GUARD)),
  };
}

/** A range that the device claims. */
interface Target {
  readonly bus: FakeBus;
  readonly base: bigint;
  readonly bytes: bigint;
}

/** Writes of a driver that means well, and of one that does not. */
class Guest {
  readonly #dice: Dice;
  readonly #device: VfioPciDevice;
  readonly #environment: ReturnType<typeof fakeEnvironment>;
  readonly #ram: Uint8Array;

  constructor(
    seed: number,
    device: VfioPciDevice,
    environment: ReturnType<typeof fakeEnvironment>,
    ram: Uint8Array,
  ) {
    this.#dice = new Dice(seed);
    this.#device = device;
    this.#environment = environment;
    this.#ram = ram;
  }

  /** As firmware, from where a driver starts. */
  home(): void {
    for (let bar = 0; bar < 6; bar++) {
      const isPort = (this.#device.configRead(0x10 + 4 * bar, 4) & 1) !== 0;
      this.#device.configWrite(
        0x10 + 4 * bar,
        4,
        isPort ? 0xc000 + 0x20 * bar : WINDOW + 0x20_0000 * (bar >> 1),
      );
    }
    for (const high of [0x1c, 0x24]) this.#device.configWrite(high, 4, 0);
    this.#device.configWrite(COMMAND, 2, 7);
  }

  step(): void {
    const dice = this.#dice;
    const bytes = dice.pick([1, 2, 4] as const);
    switch (dice.below(8)) {
      case 0:
        this.#device.configRead(dice.below(0x100 / bytes) * bytes, bytes);
        break;
      case 1:
        if (dice.below(4) === 0)
          this.#device.configWrite(dice.below(0x40) * 4, bytes, dice.below(2 ** 32) % 256 ** bytes);
        break;
      case 2:
        if (dice.below(8) === 0) this.home();
        this.#ram[dice.below(RAM_BYTES)] = dice.below(256);
        break;
      default:
        this.#access(dice.pick(this.#ranges()), bytes);
    }
  }

  #ranges(): Target[] {
    const { mmio, pio } = this.#environment;
    const ranges = [mmio, pio].flatMap((bus) => bus.ranges.map((range) => ({ bus, ...range })));
    return ranges.length === 0 ? [{ bus: mmio, base: BigInt(WINDOW), bytes: 0x1000n }] : ranges;
  }

  #access({ bus, base, bytes: size }: Target, bytes: number): void {
    const dice = this.#dice;
    const offset =
      dice.below(4) === 0 ? dice.below(Number(size) / 4) * 4 : (dice.below(32) * 4) % Number(size);
    const at = base + BigInt(offset);
    if (dice.below(2) === 0) {
      bus.read(at, bytes);
      return;
    }
    const value = dice.pick([0, 1, 2, 4, 16, RAM_AT + dice.below(RAM_BYTES), dice.below(2 ** 32)]);
    bus.write(at, new Uint8Array(new Uint32Array([value]).buffer).subarray(0, bytes));
  }
}

/** Runs a guest until its device has mutated so much. */
function run(name: keyof typeof drivers, seed: number, mutations: number): number {
  using scope = new Scope();
  const modules = new Map([
    [CARD.href, startCard],
    [NIC.href, createQueueTask(netBackends)],
    [HOSTILE.href, start],
  ]);
  const thread = scope.own(new InlineEventThread(modules));
  const memory = guestMemory(scope);
  const core = scope.own(new VfioCore());
  const kinds = ['value', 'write', 'interrupt', 'dma', 'error'] as const;
  const driver = hostileDriver(drivers[name](), { seed, rate: 0.3, kinds }, HOSTILE);
  scope.own(core.registerVendorDriver(driver, { eventThread: thread }));
  const assigned = scope.own(core.provider.resolve(`hostile-${name}`, {}));
  const container = scope.own(core.provider.groups.openContainer());
  const group = scope.own(core.provider.groups.openGroup(assigned.group));
  group.setContainer(container);
  container.setIommu(VFIO_TYPE1v2_IOMMU);
  container.mapDma({
    flags: VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
    vaddr: memory.vaddr as never,
    iova: iova(BigInt(RAM_AT)),
    size: BigInt(RAM_BYTES),
  });
  const file = scope.own(group.getDeviceFd(assigned.name));
  const windows = [
    { kind: 'mmio', base: BigInt(WINDOW), bytes: 0x100_0000n },
    { kind: 'pio', base: 0xc000n, bytes: 0x1000n },
  ] as const;
  const environment = fakeEnvironment(windows);
  const device = scope.own(VfioPciDevice.open(name, file, environment, { routeIntx: () => 16 }));
  const guest = new Guest(seed, device, environment, memory.ram);
  const made = () => assigned.counters?.().mutations ?? 0;
  guest.home();
  while (made() < mutations) {
    for (let i = 0; i < 64; i++) guest.step();
    thread.pump();
    environment.signals.deliver();
    environment.interrupts.take();
  }
  expect(memory.isContained()).toBe(true);
  return made();
}

const openFds = (): number => readdirSync('/proc/self/fd').length;

test.each(
  SEEDS.flatMap((seed) =>
    (Object.keys(drivers) as (keyof typeof drivers)[]).map((name) => [name, seed] as const),
  ),
)(
  'hostile %s, seed %i: nothing throws, no byte outside the guest’s map changes, and all is released at the end',
  { timeout: 60_000 + MUTATIONS },
  (name, seed) => {
    const share = Math.ceil(MUTATIONS / SEEDS.length / Object.keys(drivers).length);
    run(name, seed, 1); // what is opened once for all
    const before = openFds();
    expect(run(name, seed, share)).toBeGreaterThanOrEqual(share);
    expect(openFds()).toBe(before);
  },
);
