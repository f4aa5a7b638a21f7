import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  PCI_CAP_ID_EXP,
  PCI_CAP_ID_MSIX,
  PCI_CAP_ID_PM,
  PCI_COMMAND,
  PCI_COMMAND_MASTER,
  PCI_COMMAND_MEMORY,
  PCI_EXP_DEVCTL,
  PCI_EXP_DEVCTL_BCR_FLR,
  PCI_EXT_CAP_ID_SRIOV,
  PCI_EXT_CAP_SRIOV_SIZEOF,
  PCI_HEADER_TYPE,
  PCI_MSIX_FLAGS,
  PCI_MSIX_FLAGS_ENABLE,
  PCI_PM_CTRL,
  PCI_SRIOV_BAR,
  PCI_SRIOV_CTRL,
  PCI_SRIOV_CTRL_MSE,
  PCI_SRIOV_CTRL_VFE,
  PCI_SRIOV_FUNC_LINK,
  PCI_SRIOV_INITIAL_VF,
  PCI_SRIOV_NUM_VF,
  PCI_SRIOV_SUP_PGSIZE,
  PCI_SRIOV_SYS_PGSIZE,
  PCI_SRIOV_TOTAL_VF,
  PCI_SRIOV_VF_DID,
  PCI_SRIOV_VF_OFFSET,
  PCI_SRIOV_VF_STRIDE,
} from '../devices/pci/pci-regs.js';
import { testCard } from '../devices/testcard/index.js';
import { recordTrace } from '../devices/testing/fake-ports.js';
import { walkCapabilities, walkExtendedCapabilities } from '../devices/vfio-pci/capabilities.js';
import { Scope } from '../sys/scope.js';
import { trace } from '../sys/trace.js';
import { type Bench, config, hotplugBench } from './testing/hotplug-bench.js';

const { CARD_ID, REG_ID, REG_SCRATCH, REG_RAISE, SRIOV_AT, PCI_DEVICE_ID_TESTCARD_VF } = testCard;
const ON = PCI_SRIOV_CTRL_VFE | PCI_SRIOV_CTRL_MSE;
const SLOT = 5;
const PF = SLOT << 3;
/** Where the tests place VF BARs: registers, RAM, and the small one. */
const [REGISTERS, RAM, SMALL] = [0xd010_0000, 0xd020_0000, 0xd030_0000];
const GONE = 0xffff_ffff;

/** A guest with a card that has VFs in slot 5, and its accesses. */
function sriovGuest(scope: Scope, options: Readonly<Record<string, string>> = { vfs: '7' }) {
  const bench = hotplugBench(scope);
  const before = bench.state();
  bench.hotplug.attach([config('testcard', { slot: SLOT, options: { ram: '4K', ...options } })]);
  return { ...guestOf(bench), bench, before };
}

function guestOf({ machine: { pci, fakes, tasks, memory } }: Bench) {
  const read = (bdf: number, offset: number, bytes: number): number => {
    const data = new Uint8Array(bytes);
    pci.ecam.read((bdf << 12) + offset, data);
    return data.reduceRight((value, byte) => value * 256 + byte, 0);
  };
  const write = (bdf: number, offset: number, bytes: number, value: number): void =>
    pci.ecam.write(
      (bdf << 12) + offset,
      Uint8Array.from({ length: bytes }, (_, i) => (value >>> (8 * i)) & 0xff),
    );
  const reg = (offset: number, bytes: number) => read(PF, SRIOV_AT + offset, bytes);
  const setReg = (offset: number, bytes: number, value: number) => write(PF, SRIOV_AT + offset, bytes, value);
  const placeBars = (registers = REGISTERS, ram = RAM, small = SMALL): void => {
    for (const [index, value] of [registers, 0, ram, 0, small].entries())
      setReg(PCI_SRIOV_BAR + 4 * index, 4, value);
  };
  const capability = (bdf: number, id: number): number =>
    walkCapabilities((offset, bytes) => read(bdf, offset, bytes)).find((each) => each.id === id)?.offset ?? 0;
  return {
    ...{
      read,
      write,
      reg,
      setReg,
      placeBars,
      capability,
      memory,
      mmio: fakes.mmio,
      interrupts: fakes.interrupts,
    },
    tasks,
    /** As Linux does. */
    enable(count: number): void {
      placeBars();
      setReg(PCI_SRIOV_NUM_VF, 2, count);
      setReg(PCI_SRIOV_CTRL, 2, ON);
    },
    /** Functions of the slot that answer: by their class, as a VF's identifiers read all-ones. */
    present: () => [0, 1, 2, 3, 4, 5, 6, 7].filter((number) => read(PF + number, 8, 4) !== GONE),
    registers: (vf: number) => BigInt(REGISTERS + 0x1_0000 * vf),
    flr(bdf: number): void {
      write(bdf, capability(bdf, PCI_CAP_ID_EXP) + PCI_EXP_DEVCTL, 2, PCI_EXP_DEVCTL_BCR_FLR);
    },
  };
}

type Guest = ReturnType<typeof sriovGuest>;

/** A transfer of a VF's engine. Returns its status. */
function fill({ mmio, tasks, registers }: Guest, vf: number, target: number, value: number): number {
  const at = (register: number) => registers(vf) + BigInt(register);
  mmio.write32(at(testCard.REG_DMA_TARGET), target);
  mmio.write32(at(testCard.REG_DMA_TARGET + 4), 0);
  mmio.write32(at(testCard.REG_DMA_LENGTH), 4);
  mmio.write32(at(testCard.REG_DMA_VALUE), value);
  mmio.write32(at(testCard.REG_DMA_COMMAND), testCard.DMA_FILL);
  tasks.pump();
  return mmio.read32(at(testCard.REG_DMA_STATUS));
}

test('the capability is in the list of a card with VFs, says what it has, and is in no other card', () => {
  using scope = new Scope();
  const guest = sriovGuest(scope, { vfs: '3' });
  const list = walkExtendedCapabilities((offset, bytes) => guest.read(PF, offset, bytes));
  expect(list.at(-1)).toEqual({ id: PCI_EXT_CAP_ID_SRIOV, offset: SRIOV_AT, version: 1 });
  const says = (...registers: readonly number[]) => registers.map((offset) => guest.reg(offset, 2));
  expect(says(PCI_SRIOV_INITIAL_VF, PCI_SRIOV_TOTAL_VF, PCI_SRIOV_NUM_VF, PCI_SRIOV_FUNC_LINK)).toEqual([
    3, 3, 0, 0,
  ]);
  expect(says(PCI_SRIOV_VF_OFFSET, PCI_SRIOV_VF_STRIDE)).toEqual([1, 1]);
  expect(guest.reg(PCI_SRIOV_VF_DID, 2)).toBe(PCI_DEVICE_ID_TESTCARD_VF);
  expect(guest.reg(PCI_SRIOV_SUP_PGSIZE, 4)).toBe(0x553);
  expect(
    [4, 0x3c].map((offset) => guest.reg(offset, 4)),
    'no migration',
  ).toEqual([0, 0]);
  // As a served card's client sees it: the device's own space.
  const data = new Uint8Array(4);
  const { file } = guest.bench.devices.get(SLOT, 'test').assigned;
  file.read(file.getRegionInfo(7).offset + SRIOV_AT, data);
  expect([...data]).toEqual([0, 0, 0, 0]);
  guest.bench.hotplug.attach([config('testcard', { slot: 6 })]);
  expect(
    walkExtendedCapabilities((offset, bytes) => guest.read(6 << 3, offset, bytes)).map(({ id }) => id),
  ).not.toContain(PCI_EXT_CAP_ID_SRIOV);
});

test('a VF BAR has the size of one VF, and at least that of a system page', () => {
  using scope = new Scope();
  const guest = sriovGuest(scope);
  const sizes = () => {
    guest.placeBars(GONE, GONE, GONE);
    guest.setReg(PCI_SRIOV_BAR + 12, 4, GONE);
    return [0, 1, 2, 3, 4, 5].map((index) => guest.reg(PCI_SRIOV_BAR + 4 * index, 4));
  };
  expect(sizes()).toEqual([0xffff_0000, 0, 0xffff_f00c, GONE, 0xffff_f000, 0]);
  guest.setReg(PCI_SRIOV_SYS_PGSIZE, 4, 0x10);
  expect(sizes()).toEqual([0xffff_0000, 0, 0xffff_000c, GONE, 0xffff_0000, 0]);
  guest.setReg(PCI_SRIOV_SYS_PGSIZE, 4, 0);
  expect(sizes()[2], 'no size is the smallest one').toBe(0xffff_f00c);
});

test('VFs are on the bus once VF Enable is set, without identifiers, and make no device of several functions', () => {
  using scope = new Scope();
  const guest = sriovGuest(scope);
  guest.setReg(PCI_SRIOV_NUM_VF, 2, 3);
  expect(guest.present()).toEqual([0]);
  guest.enable(3);
  expect(guest.present()).toEqual([0, 1, 2, 3]);
  expect(guest.read(PF + 1, 0, 4)).toBe(GONE);
  expect(guest.read(PF + 2, 0x2c, 4), 'the subsystem').toBe(0x7463_1234);
  expect([0, 1].map((number) => guest.read(PF + number, PCI_HEADER_TYPE, 1))).toEqual([0, 0]);
  guest.write(PF + 1, PCI_COMMAND, 2, 0xffff);
  guest.write(PF + 1, 0x10, 4, GONE);
  guest.write(PF + 1, 0x30, 4, GONE);
  expect([PCI_COMMAND, 0x10, 0x18, 0x30].map((offset) => guest.read(PF + 1, offset, 2))).toEqual([
    4, 0, 0, 0,
  ]);
  expect(guest.read(PF + 1, 0x3c, 2), 'no pin').toBe(0);
  const groups = guest.bench.associated.filter((text) => text.startsWith('add'));
  expect(new Set(groups).size, 'each in a group of its own').toBe(4);
});

test('the physical function’s registers place the BARs of VFs, one after the other', () => {
  using scope = new Scope();
  const guest = sriovGuest(scope);
  const { mmio } = guest;
  guest.enable(3);
  for (const vf of [0, 1, 2]) {
    expect(mmio.read32(guest.registers(vf) + BigInt(REG_ID))).toBe(CARD_ID);
    mmio.write32(guest.registers(vf) + BigInt(REG_SCRATCH), vf + 1);
    mmio.write32(BigInt(SMALL + 0x1000 * vf), vf + 5);
  }
  expect([0, 1, 2].map((vf) => mmio.read32(guest.registers(vf) + BigInt(REG_SCRATCH)))).toEqual([1, 2, 3]);
  expect(mmio.read32(BigInt(SMALL + 0x1000))).toBe(6);
  expect(mmio.read32(BigInt(SMALL + 0x1100)), 'the rest of the page is nobody’s').toBe(GONE);
  expect(guest.bench.memory().filter((range) => range.includes('d020'))).toHaveLength(3);
  // By one VF's size: the places overlap those before.
  guest.setReg(PCI_SRIOV_BAR, 4, REGISTERS + 0x1_0000);
  expect(mmio.read32(guest.registers(0) + BigInt(REG_SCRATCH))).toBe(GONE);
  expect([1, 2, 3].map((vf) => mmio.read32(guest.registers(vf) + BigInt(REG_SCRATCH)))).toEqual([1, 2, 3]);
  guest.setReg(PCI_SRIOV_CTRL, 2, PCI_SRIOV_CTRL_VFE);
  expect(mmio.read32(guest.registers(1) + BigInt(REG_SCRATCH)), 'without MSE').toBe(GONE);
  expect(guest.present()).toEqual([0, 1, 2, 3]);
  guest.setReg(PCI_SRIOV_CTRL, 2, ON);
  expect(mmio.read32(guest.registers(1) + BigInt(REG_SCRATCH))).toBe(1);
});

test('each VF has a bus master bit, an engine and messages of its own', () => {
  using scope = new Scope();
  const guest = sriovGuest(scope);
  guest.enable(2);
  guest.write(PF + 2, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
  expect([0, 1].map((vf) => fill(guest, vf, 0x5000 + 0x100 * vf, 0x40 + vf))).toEqual([
    testCard.DMA_ERROR,
    testCard.DMA_DONE,
  ]);
  expect([...guest.memory.ram(0x5100n, 4), ...guest.memory.ram(0x5000n, 4)]).toEqual([
    ...[0x41, 0x41, 0x41, 0x41],
    ...[0, 0, 0, 0],
  ]);
  for (const vf of [0, 1]) {
    const entry = guest.registers(vf) + BigInt(testCard.MSIX_TABLE_AT);
    for (const [i, word] of [0xfee0_0000, 0, 0x50 + vf, 0].entries())
      guest.mmio.write32(entry + BigInt(4 * i), word);
    const msix = guest.capability(PF + 1 + vf, PCI_CAP_ID_MSIX);
    guest.write(PF + 1 + vf, msix + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE);
    guest.write(PF + 1 + vf, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
  }
  guest.mmio.write32(guest.registers(1) + BigInt(REG_RAISE), 0);
  guest.tasks.pump();
  expect(guest.interrupts.take().map(({ data }) => data)).toEqual([0x51]);
  guest.mmio.write32(guest.registers(0) + BigInt(REG_RAISE), 0);
  expect(guest.interrupts.take().map(({ data }) => data)).toEqual([0x50]);
});

test('a VF’s function level reset is its own', () => {
  using scope = new Scope();
  const guest = sriovGuest(scope);
  const scratch = (vf: number) => guest.registers(vf) + BigInt(REG_SCRATCH);
  guest.enable(2);
  for (const vf of [0, 1]) guest.mmio.write32(scratch(vf), 9);
  guest.flr(PF + 1);
  expect([0, 1].map((vf) => guest.mmio.read32(scratch(vf)))).toEqual([0, 9]);
  expect(guest.present()).toEqual([0, 1, 2]);
});

/** What ends VFs, by the options of the card that it takes. */
const ends: readonly [name: string, options: Record<string, string>, end: (guest: Guest) => void][] = [
  ['clearing VF Enable', {}, (guest) => guest.setReg(PCI_SRIOV_CTRL, 2, PCI_SRIOV_CTRL_MSE)],
  ['a function level reset', {}, (guest) => guest.flr(PF)],
  [
    'leaving D3hot by a reset',
    { reset: 'pm' },
    (guest) => {
      const at = guest.capability(PF, PCI_CAP_ID_PM) + PCI_PM_CTRL;
      guest.write(PF, at, 2, 3);
      expect(guest.present()).toEqual([0, 1, 2, 3]);
      guest.write(PF, at, 2, 0);
    },
  ],
  [
    'a reset by Advanced Features',
    { reset: 'af' },
    (guest) => guest.write(PF, guest.capability(PF, 0x13) + 4, 1, 1),
  ],
  ['a reset of the machine', {}, ({ bench }) => bench.assignment.reset()],
];

test.each(ends)('%s takes the VFs away at once, and nothing of them is left', (_name, options, end) => {
  using scope = new Scope();
  const guest = sriovGuest(scope, { vfs: '7', ...options });
  const without = guest.bench.state();
  guest.enable(3);
  expect(guest.bench.state().fds).toBeGreaterThan(without.fds);
  end(guest);
  expect(guest.present()).toEqual([0]);
  expect(guest.mmio.read32(guest.registers(0))).toBe(GONE);
  expect(guest.bench.state()).toEqual(without);
  expect(guest.reg(PCI_SRIOV_CTRL, 2) & PCI_SRIOV_CTRL_VFE).toBe(0);
  guest.enable(7);
  expect(guest.present()).toHaveLength(8);
  guest.bench.hotplug.detach(SLOT, true, 1);
  expect(guest.bench.state()).toEqual(guest.before);
});

test('another function’s reset of the slot is refused while VFs are enabled, and clears the registers when they are not', () => {
  using scope = new Scope();
  const guest = sriovGuest(scope, { vfs: '3', board: 'a', reset: 'none' });
  const useOther = (): readonly (string | undefined)[] => {
    using notes = recordTrace(trace.vfio);
    {
      using other = guest.bench.assignment.attach({
        ...{ address: 'testcard', name: 'other' },
        options: { board: 'a', reset: 'none', ram: '4K' },
      });
      other.function.configWrite(PCI_COMMAND, 2, PCI_COMMAND_MASTER);
    }
    return notes.events.map(({ text }) => text);
  };
  guest.enable(2);
  expect(useOther()).toContainEqual(expect.stringMatching(/testcard is on its slot, and the guest uses it/));
  expect(guest.present()).toEqual([0, 1, 2]);
  guest.setReg(PCI_SRIOV_CTRL, 2, 0);
  expect(useOther()).toContainEqual(expect.stringMatching(/reset with its slot, by other/));
  expect(guest.reg(PCI_SRIOV_NUM_VF, 2)).toBe(0);
});

test('a card that is not function 0 has its VFs after itself', () => {
  using scope = new Scope();
  const bench = hotplugBench(scope);
  const card = (number: number, options: Readonly<Record<string, string>>) => ({
    ...config('testcard', { slot: SLOT, options: { ram: '4K', ...options } }),
    function: number,
  });
  bench.hotplug.attach([card(0, {}), card(4, { vfs: '3' })]);
  const guest = guestOf(bench);
  const set = (offset: number, value: number) => guest.write(PF + 4, SRIOV_AT + offset, 2, value);
  expect(guest.read(PF + 4, SRIOV_AT + PCI_SRIOV_FUNC_LINK, 1)).toBe(4);
  set(PCI_SRIOV_NUM_VF, 2);
  set(PCI_SRIOV_CTRL, ON);
  expect(guest.present()).toEqual([0, 4, 5, 6]);
  expect(guest.read(PF, PCI_HEADER_TYPE, 1), 'two functions besides the VFs').toBe(0x80);
});

test('what does not change while VFs are enabled, and what enables none', () => {
  using scope = new Scope();
  using misuse = recordTrace(trace.guestMisuse);
  const guest = sriovGuest(scope, { vfs: '2' });
  guest.enable(1);
  guest.setReg(PCI_SRIOV_NUM_VF, 2, 2);
  guest.setReg(PCI_SRIOV_SYS_PGSIZE, 4, 0x10);
  expect([guest.reg(PCI_SRIOV_NUM_VF, 2), guest.reg(PCI_SRIOV_SYS_PGSIZE, 4)]).toEqual([1, 1]);
  expect(guest.present()).toEqual([0, 1]);
  guest.setReg(PCI_SRIOV_CTRL, 2, 0);
  for (const count of [0, 3, 0xffff]) {
    guest.enable(count);
    expect(guest.present(), `NumVFs ${count}`).toEqual([0]);
    guest.setReg(PCI_SRIOV_CTRL, 2, 0);
  }
  expect(misuse.events.filter(({ what }) => what === 'sriov')).toHaveLength(2);
  guest.setReg(PCI_SRIOV_TOTAL_VF, 2, 9);
  guest.setReg(PCI_SRIOV_VF_OFFSET, 4, 0);
  expect([guest.reg(PCI_SRIOV_TOTAL_VF, 2), guest.reg(PCI_SRIOV_VF_OFFSET, 2)]).toEqual([2, 1]);
});

test('whatever fails of enabling: a VF that cannot be created is not there, others are, and nothing of it is left', () => {
  using scope = new Scope();
  const guest = sriovGuest(scope);
  const { faults } = guest.bench;
  const without = guest.bench.state();
  faults.failAt(-1, 'ENOMEM');
  guest.enable(2);
  const calls = faults.count;
  expect(calls).toBeGreaterThan(10);
  let refused = 0;
  for (let i = 0; i < calls; i++) {
    guest.setReg(PCI_SRIOV_CTRL, 2, 0);
    expect(guest.bench.state()).toEqual(without);
    using notes = recordTrace(trace.vfio);
    faults.failAt(i, 'ENOMEM');
    guest.enable(2);
    if (guest.present().length === 3) continue;
    refused++;
    expect(guest.present()).toHaveLength(2);
    expect(notes.events.map(({ text }) => text)).toContainEqual(
      expect.stringMatching(/^00:05\.[12] testcard VF [01] is not there: .*ENOMEM/),
    );
  }
  expect(refused).toBeGreaterThan(10);
  guest.setReg(PCI_SRIOV_CTRL, 2, 0);
  guest.enable(2);
  expect(guest.present()).toEqual([0, 1, 2]);
});

test('places of VFs are the card’s own: no other function goes there, and it is refused where one is', () => {
  using scope = new Scope();
  const bench = hotplugBench(scope);
  const before = bench.state();
  const other = { ...config('mtty-1', { slot: SLOT }), function: 2 };
  const card = (vfs: string, number = 0) => ({
    ...config('testcard', { slot: SLOT, options: { vfs } }),
    function: number,
  });
  expect(() => bench.hotplug.attach([other, card('2')])).toThrowError(
    /00:05\.2: EBUSY\n.*taken by 00:05\.2 mtty-1/,
  );
  expect(() => bench.hotplug.attach([card('2'), other])).toThrowError(
    /EBUSY\n.*virtual functions of 00:05\.0 testcard/,
  );
  expect(() => bench.hotplug.attach([config('mtty-1', { slot: SLOT }), card('7', 1)])).toThrowError(
    /EINVAL\n.*6 are left for its 7 virtual ones/,
  );
  expect(bench.state()).toEqual(before);
  expect(bench.hotplug.attach([card('1'), other])).toEqual([SLOT, SLOT]);
});

test('a guest that does anything to the registers harms nothing, and VFs that are not enabled never answer', () => {
  using scope = new Scope();
  const guest = sriovGuest(scope, { vfs: '7' });
  const without = guest.bench.state();
  const address = fc.constantFrom(0, GONE, REGISTERS, RAM, SMALL, 0xfffe_0000, 0xe000_0000, 0xfec0_0000);
  const value = fc.oneof(address, fc.nat(8), fc.integer({ min: 0, max: GONE }));
  const operation = fc.oneof(
    {
      weight: 6,
      arbitrary: fc.record({
        bdf: fc.constant(PF),
        offset: fc.nat(PCI_EXT_CAP_SRIOV_SIZEOF / 4 - 1).map((word) => SRIOV_AT + 4 * word),
        bytes: fc.constantFrom(1, 2, 4),
        value,
      }),
    },
    {
      weight: 3,
      arbitrary: fc.record({
        bdf: fc.constant(PF),
        offset: fc.constantFrom(PCI_SRIOV_CTRL, PCI_SRIOV_NUM_VF).map((at) => SRIOV_AT + at),
        bytes: fc.constant(2),
        value: fc.constantFrom(0, 1, 2, 7, 8, 9, ON),
      }),
    },
    {
      weight: 3,
      arbitrary: fc.record({
        bdf: fc.nat(7).map((number) => PF + number),
        offset: fc.oneof(fc.nat(63), fc.nat(0x3ff)).map((word) => 4 * word),
        bytes: fc.constantFrom(1, 2, 4),
        value,
      }),
    },
  );
  let done = 0;
  fc.assert(
    fc.property(fc.array(operation, { minLength: 100, maxLength: 100, size: 'max' }), (operations) => {
      for (const { bdf, offset, bytes, value } of operations) {
        done++;
        guest.write(bdf, offset, bytes, value);
        guest.read(bdf, offset, bytes);
        const isEnabled = (guest.reg(PCI_SRIOV_CTRL, 2) & PCI_SRIOV_CTRL_VFE) !== 0;
        const count = isEnabled ? guest.reg(PCI_SRIOV_NUM_VF, 2) : 0;
        const vfs = guest.present().length - 1;
        if (vfs !== (count > 7 ? 0 : count)) throw new Error(`${vfs} of ${count} VFs answer`);
      }
      guest.setReg(PCI_SRIOV_CTRL, 2, 0);
      guest.write(PF, PCI_COMMAND, 2, 0);
      guest.bench.assignment.reset();
      expect(guest.bench.state()).toEqual(without);
    }),
    { numRuns: 100 },
  );
  expect(done).toBeGreaterThanOrEqual(10_000);
  guest.bench.hotplug.detach(SLOT, true, 1);
  expect(guest.bench.state()).toEqual(guest.before);
});

test('an inspection has the VFs that are enabled, with their BARs and interrupts', () => {
  using scope = new Scope();
  const guest = sriovGuest(scope);
  const inspect = () => guest.bench.devices.get(SLOT, 'test').assigned.function.inspect?.().virtualFunctions;
  expect(inspect()).toEqual([]);
  guest.enable(2);
  expect(inspect()?.map(({ name }) => name)).toEqual(['00:05.1 testcard VF 0', '00:05.2 testcard VF 1']);
  expect(inspect()?.[1]?.bars.map(({ label, base }) => [label, base])).toEqual([
    ['BAR0', BigInt(REGISTERS + 0x1_0000)],
    ['BAR2', BigInt(RAM + 0x1000)],
    ['BAR4', BigInt(SMALL + 0x1000)],
  ]);
  expect(inspect()?.[0]?.interrupts.mode).toBe('none');
});

test('a function that is loaded has as many VFs as the one that was saved, where they were', () => {
  using scope = new Scope();
  const guest = sriovGuest(scope, { vfs: '3' });
  const { assigned } = guest.bench.devices.get(SLOT, 'test');
  const without = guest.bench.state();
  guest.setReg(PCI_SRIOV_SYS_PGSIZE, 4, 0x10);
  guest.enable(2);
  const saved = assigned.function.save?.() ?? new Uint8Array();
  guest.setReg(PCI_SRIOV_CTRL, 2, 0);
  guest.setReg(PCI_SRIOV_SYS_PGSIZE, 4, 1);
  guest.enable(3);
  guest.mmio.write32(guest.registers(0) + BigInt(REG_SCRATCH), 5);
  assigned.function.load?.(saved);
  expect(guest.present()).toEqual([0, 1, 2]);
  expect(guest.mmio.read32(BigInt(SMALL + 0x1_0000)), 'as far apart').toBe(0);
  expect(guest.mmio.read32(guest.registers(0) + BigInt(REG_SCRATCH)), 'new').toBe(0);
  expect(guest.reg(PCI_SRIOV_NUM_VF, 2)).toBe(2);
  guest.setReg(PCI_SRIOV_CTRL, 2, 0);
  expect(guest.bench.state()).toEqual(without);
});

test('the command register of the physical function has no say in what its VFs decode', () => {
  using scope = new Scope();
  const guest = sriovGuest(scope);
  guest.enable(1);
  guest.write(PF, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
  guest.write(PF, PCI_COMMAND, 2, 0);
  expect(guest.mmio.read32(guest.registers(0))).toBe(CARD_ID);
});

test('a VF has faults of its own, given by its function number, and only while the guest has it enabled', () => {
  using scope = new Scope();
  const guest = sriovGuest(scope, { vfs: '3' });
  const { devices } = guest.bench;
  const id = (vf: number) => guest.mmio.read32(guest.registers(vf) + BigInt(REG_ID));
  expect(() => devices.inject(SLOT, 'removed', 2)).toThrowError(/PCI slot 5, function 2: ENODEV/);
  guest.enable(2);
  expect([id(0), id(1)]).toEqual([CARD_ID, CARD_ID]);
  devices.inject(SLOT, 'removed', 2);
  expect([id(0), id(1)]).toEqual([CARD_ID, GONE]);
  expect(guest.read(PF, 8, 4)).not.toBe(GONE);
  devices.inject(SLOT, 'none', 2);
  expect([id(0), id(1)]).toEqual([CARD_ID, CARD_ID]);
  expect(() => devices.inject(SLOT, 'sloow', 2)).toThrowError(/EINVAL/);
  expect(() => devices.inject(SLOT, 'removed', 3)).toThrowError(/PCI slot 5, function 3: ENODEV/);
  expect(() => devices.inject(SLOT + 1, 'removed', 1)).toThrowError(/PCI slot 6, function 1: ENODEV/);
  devices.inject(SLOT, 'dead-after-reset', 1);
  guest.setReg(PCI_SRIOV_CTRL, 2, 0);
  expect(() => devices.inject(SLOT, 'removed', 1)).toThrowError(/ENODEV/);
  guest.enable(2); // another card: it has no faults
  guest.flr(PF + 1);
  expect(guest.read(PF + 1, 8, 4)).not.toBe(GONE);
});
