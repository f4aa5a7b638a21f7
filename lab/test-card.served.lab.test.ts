/**
 * Test cards of this project under the kernel's own vfio-pci, behind L1's IOMMU: driven by hand through the host provider, by
 * group and iommufd, and what `tsvisor run` and `tsvisor check` say of their faults.
 */
import { execFileSync } from 'node:child_process';
import { randomFillSync } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { crc32 } from 'node:zlib';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { PCI_CAP_ID_MSI, PCI_CAP_ID_PM, PCI_PM_CTRL } from '../devices/pci/pci-regs.js';
import { createRomImage } from '../devices/testcard/rom-image.js';
import {
  CARD_ID,
  DMA_BUSY,
  DMA_CHECK,
  DMA_COPY,
  DMA_DONE,
  DMA_ERROR,
  DMA_FILL,
  DMA_SCATTER,
  DOORBELL_AT,
  NO_VECTOR,
  PORT_BAR,
  RAM_BAR,
  REG_DMA_DELAY,
  REG_DMA_STATUS,
  REG_DMA_VECTOR,
  REG_DOORBELL_VECTOR,
  REG_DOORBELLS,
  REG_FAULT,
  REG_ID,
  REG_INTERRUPTS,
  REG_PIN,
  REG_RAISE,
  REG_SCRATCH,
  SCATTER_ENTRY_BYTES,
  SMALL_BAR,
  SMALL_BAR_BYTES,
} from '../devices/testcard/spec.js';
import {
  VFIO_IRQ_SET_ACTION_MASK,
  VFIO_IRQ_SET_ACTION_UNMASK,
  VFIO_PCI_INTX_IRQ_INDEX,
  VFIO_PCI_MSI_IRQ_INDEX,
  VFIO_PCI_MSIX_IRQ_INDEX,
  VFIO_PCI_ROM_REGION_INDEX,
} from '../vfio/uapi.js';
import { type CommandResult, runLoudly, tsvisorRun } from './command-line.js';
import {
  Counted,
  HostCard,
  KernelLog,
  MEMORY_BYTES,
  MEMORY_IOVA,
  resetMethods,
  served,
  setResetMethod,
  until,
} from './host-card.js';

const {
  LAB_CARD: CARD = '',
  LAB_PM: PM = '',
  LAB_AF: AF = '',
  LAB_BARE: BARE = '',
  LAB_DEAD: DEAD = '',
  LAB_LIAR: LIAR = '',
  LAB_NIC: NIC = '',
} = process.env;
const ALL = [CARD, PM, AF, BARE, DEAD, LIAR, NIC];
const INTERFACES = ['group', 'iommufd'] as const;
/** The built-in guest's verdict without a NIC that it knows: it ran, so the device was attached. */
const RAN = 2;
/** EX_UNAVAILABLE. */
const UNAVAILABLE = 69;

/** Vendor and device as the hardware says them: vfio-pci has its own copy. */
const rawId = (address: string): number =>
  readFileSync(`/sys/bus/pci/devices/${address}/config`).readUInt32LE(0);

beforeAll(() => {
  if (CARD === '') return;
  execFileSync('vfio-load');
  execFileSync('vfio-bind', ALL);
});
afterAll(() => {
  if (CARD !== '')
    execFileSync(
      'vfio-unbind',
      ALL.filter((each) => existsSync(`/sys/bus/pci/devices/${each}`)),
    );
});

describe.skipIf(CARD === '').each(INTERFACES)('by %s, a card', (how) => {
  let card: HostCard;
  const eventfds: Counted[] = [];
  const counted = (count: number) => {
    const made = Array.from({ length: count }, () => new Counted());
    eventfds.push(...made);
    return made;
  };
  const first = () => counted(1)[0] as Counted;
  const counts = () => eventfds.map(({ count }) => count);
  beforeEach(() => {
    card = new HostCard(CARD, how);
  });
  afterEach(() => {
    served('card', 'fault', 'none');
    card[Symbol.dispose]();
    for (const eventfd of eventfds.splice(0)) eventfd[Symbol.dispose]();
  });

  test('has its registers in memory and ports, its memory mapped and read alike, and its ROM', () => {
    expect(card.get(REG_ID)).toBe(CARD_ID);
    card.set(REG_SCRATCH, 0x1234_5678);
    expect(card.get(REG_SCRATCH, PORT_BAR)).toBe(0x1234_5678);
    const bytes = randomFillSync(new Uint8Array(4096));
    card.write(RAM_BAR, 0x3000, bytes);
    const { offset, size } = card.file.getRegionInfo(RAM_BAR);
    using mapping = card.file.mmap(offset, size);
    expect(mapping.view.slice(0x3000, 4096)).toEqual(bytes);
    const small = randomFillSync(new Uint8Array(SMALL_BAR_BYTES));
    card.write(SMALL_BAR, 0, small.subarray(0, 4));
    expect(card.read(SMALL_BAR, 0, 4)).toEqual(small.subarray(0, 4));
    const rom = card.file.getRegionInfo(VFIO_PCI_ROM_REGION_INDEX);
    expect(card.read(VFIO_PCI_ROM_REGION_INDEX, 0, rom.size)).toEqual(createRomImage(rom.size));
  });

  test('interrupts by its pin once until it is unmasked, and again while the pin is asserted', async () => {
    const pin = first();
    card.wire(VFIO_PCI_INTX_IRQ_INDEX, [pin]);
    card.set(REG_RAISE, 0);
    await pin.reaches(1);
    expect(card.get(REG_PIN)).toBe(1);
    card.act(VFIO_PCI_INTX_IRQ_INDEX, VFIO_IRQ_SET_ACTION_UNMASK); // it is still asserted
    await pin.reaches(2);
    card.set(REG_PIN, 0);
    card.act(VFIO_PCI_INTX_IRQ_INDEX, VFIO_IRQ_SET_ACTION_UNMASK);
    card.act(VFIO_PCI_INTX_IRQ_INDEX, VFIO_IRQ_SET_ACTION_MASK);
    card.set(REG_RAISE, 0);
    await until('the pin is asserted', () => card.get(REG_PIN) === 1);
    expect(pin.count).toBe(2);
    card.act(VFIO_PCI_INTX_IRQ_INDEX, VFIO_IRQ_SET_ACTION_UNMASK);
    await pin.reaches(3);
    card.unwire(VFIO_PCI_INTX_IRQ_INDEX);
  });

  test('interrupts by eight messages of MSI, each by its own eventfd', async () => {
    const messages = counted(8);
    card.wire(VFIO_PCI_MSI_IRQ_INDEX, messages);
    for (let round = 1; round <= 2; round++) {
      for (const [i, message] of messages.entries()) {
        card.set(REG_RAISE, i);
        await message.reaches(round);
      }
    }
    expect(counts()).toEqual(Array(8).fill(2));
    card.unwire(VFIO_PCI_MSI_IRQ_INDEX);
  });

  test('interrupts by sixteen vectors of MSI-X, and more are added while it is on', async () => {
    const vectors = counted(16);
    card.wire(VFIO_PCI_MSIX_IRQ_INDEX, vectors.slice(0, 2));
    card.set(REG_RAISE, 1);
    await vectors[1]?.reaches(1);
    for (let i = 2; i < 16; i++) {
      card.wire(VFIO_PCI_MSIX_IRQ_INDEX, [vectors[i]], i);
      card.set(REG_RAISE, i);
      await vectors[i]?.reaches(1);
      card.set(REG_RAISE, 0); // the first ones have not lost their eventfds
      await vectors[0]?.reaches(i - 1);
    }
    expect(counts()).toEqual([14, ...Array(15).fill(1)]);
    card.wire(VFIO_PCI_MSIX_IRQ_INDEX, [undefined], 3);
    const before = card.get(REG_INTERRUPTS);
    card.set(REG_RAISE, 3);
    card.set(REG_RAISE, 4);
    await vectors[4]?.reaches(2);
    expect([vectors[3]?.count, card.get(REG_INTERRUPTS) >= before + 1]).toEqual([1, true]);
    card.unwire(VFIO_PCI_MSIX_IRQ_INDEX);
  });

  test('counts its doorbells, and interrupts by them', async () => {
    const [, vector] = counted(2);
    card.wire(VFIO_PCI_MSIX_IRQ_INDEX, eventfds);
    card.set(REG_DOORBELL_VECTOR, 1);
    for (let i = 0; i < 4; i++) card.set(DOORBELL_AT + 4 * i, 1);
    await until('four doorbells', () => card.get(REG_DOORBELLS) === 4);
    await vector?.reaches(1);
    card.set(REG_DOORBELL_VECTOR, NO_VECTOR);
    card.unwire(VFIO_PCI_MSIX_IRQ_INDEX);
  });

  test('copies, fills and checks memory with the right checksums, and says so by a message', async () => {
    const end = first();
    card.wire(VFIO_PCI_MSIX_IRQ_INDEX, [end]);
    card.set(REG_DMA_VECTOR, 0);
    const length = 1 << 20;
    const source = randomFillSync(card.memory.view.slice(0, length));
    const crc = crc32(source);
    const copied = await card.transfer({ command: DMA_COPY, source: 0, target: 2 << 20, length });
    expect(copied).toEqual({ status: DMA_DONE, crc, moved: length });
    expect(crc32(card.memory.view.slice(2 << 20, length))).toBe(crc);
    expect(await card.transfer({ command: DMA_CHECK, source: 2 << 20, length: 12_345 })).toEqual({
      status: DMA_DONE,
      crc: crc32(source.subarray(0, 12_345)),
      moved: 12_345,
    });
    const filled = await card.transfer({ command: DMA_FILL, target: 5001, length: 70_000, value: 0xa5 });
    expect(filled).toEqual({ status: DMA_DONE, crc: crc32(Buffer.alloc(70_000, 0xa5)), moved: 70_000 });
    expect(card.memory.view.slice(5001, 70_000).every((byte) => byte === 0xa5)).toBe(true);
    await end.reaches(3);
    card.unwire(VFIO_PCI_MSIX_IRQ_INDEX);
  });

  test('copies by a list', async () => {
    const lengths = [1, 4096, 65_537];
    const view = card.memory.view.slice(0, MEMORY_BYTES);
    randomFillSync(view.subarray(1 << 20, 2 << 20));
    const list = Buffer.alloc(SCATTER_ENTRY_BYTES * lengths.length);
    let crc = 0;
    for (const [i, length] of lengths.entries()) {
      const [from, to] = [(1 << 20) + 100_000 * i, (2 << 20) + 100_000 * i];
      list.writeBigUInt64LE(BigInt(MEMORY_IOVA + from), SCATTER_ENTRY_BYTES * i);
      list.writeBigUInt64LE(BigInt(MEMORY_IOVA + to), SCATTER_ENTRY_BYTES * i + 8);
      list.writeUInt32LE(length, SCATTER_ENTRY_BYTES * i + 16);
      crc = crc32(view.subarray(from, from + length), crc);
    }
    view.set(list);
    const moved = lengths.reduce((sum, length) => sum + length, 0);
    expect(await card.transfer({ command: DMA_SCATTER, length: lengths.length })).toEqual({
      status: DMA_DONE,
      crc,
      moved,
    });
  });

  test('is reset by FLR', async () => {
    expect(resetMethods(CARD)).toEqual(['flr', 'bus']);
    card.set(REG_SCRATCH, 7);
    card.file.reset();
    expect([card.get(REG_ID), card.get(REG_SCRATCH)]).toEqual([CARD_ID, 0]);
  });

  test('is reset by its bus', () => {
    expect(card.hotResetInfo().devices).toHaveLength(1);
    card.set(REG_SCRATCH, 7);
    card.hotReset();
    expect([card.get(REG_ID), card.get(REG_SCRATCH)]).toEqual([CARD_ID, 0]);
  });

  test('that ignores resets keeps its registers, which the kernel cannot see', () => {
    served('card', 'fault', 'reset-fails');
    card.set(REG_SCRATCH, 7);
    card.file.reset();
    expect(card.get(REG_SCRATCH)).toBe(7);
    served('card', 'fault', 'none');
    card.file.reset();
    expect(card.get(REG_SCRATCH)).toBe(0);
  });

  test('whose reset takes 1.5 s is waited for, as the kernel says', () => {
    const log = new KernelLog();
    served('card', 'fault', 'reset-hangs:1500');
    card.set(REG_SCRATCH, 7);
    card.file.reset();
    expect([card.get(REG_ID), card.get(REG_SCRATCH)]).toEqual([CARD_ID, 0]);
    expect(log.text).toMatch(new RegExp(`${CARD}: not ready 1023ms after FLR; waiting`));
  });

  test('loses an interrupt, has one without a cause, and takes longer, as its faults say', async () => {
    const [zero, one] = counted(2) as [Counted, Counted];
    card.wire(VFIO_PCI_MSIX_IRQ_INDEX, [zero, one]);
    served('card', 'fault', 'lose-interrupts:2');
    for (let i = 0; i < 3; i++) card.set(REG_RAISE, 0);
    await zero.reaches(1);
    served('card', 'fault', 'spurious-interrupt:1');
    await one.reaches(1);
    expect(counts()).toEqual([1, 1]);
    card.unwire(VFIO_PCI_MSIX_IRQ_INDEX);
    card.set(REG_FAULT, 9 | (5000 << 8)); // slow, by its register
    const start = performance.now();
    for (let i = 0; i < 10; i++) card.get(REG_ID);
    expect(performance.now() - start).toBeGreaterThanOrEqual(50);
  });

  test('that is pulled out under DMA is all-ones, its transfer moves nothing, and it is back afterwards', async () => {
    const transfer = { command: DMA_FILL, length: 1 << 20, value: 0xff };
    card.set(REG_DMA_DELAY, 60_000);
    const running = card.transfer(transfer);
    await until('the transfer runs', () => card.get(REG_DMA_STATUS) === DMA_BUSY);
    served('card', 'fault', 'removed');
    expect((await running).status).toBe(0xffff_ffff); // an answer of nobody
    expect(rawId(CARD)).toBe(0xffff_ffff);
    card.set(REG_SCRATCH, 7);
    served('card', 'fault', 'none');
    expect([card.get(REG_ID), card.get(REG_SCRATCH), card.get(REG_DMA_STATUS)]).toEqual([
      CARD_ID,
      0,
      DMA_ERROR,
    ]);
    expect(card.memory.view.slice(0, MEMORY_BYTES).every((byte) => byte === 0)).toBe(true);
    card.set(REG_DMA_DELAY, 0);
    expect((await card.transfer(transfer)).status).toBe(DMA_DONE);
  });

  test('in D3hot answers nothing by its BARs, and wakes as it was', () => {
    card.set(REG_SCRATCH, 7);
    const at = card.capability(PCI_CAP_ID_PM) + PCI_PM_CTRL;
    card.setConfig(at, 2, (card.config(at, 2) & ~3) | 3);
    expect(card.config(at, 2) & 3).toBe(3);
    expect(() => card.get(REG_ID)).toThrow(/EIO/);
    card.setConfig(at, 2, card.config(at, 2) & ~3);
    expect([card.get(REG_ID), card.get(REG_SCRATCH)]).toEqual([CARD_ID, 7]);
  });

  test('that ignores masks is held by QEMU, which masks its messages itself', async () => {
    const message = first();
    card.wire(VFIO_PCI_MSI_IRQ_INDEX, [message]);
    served('card', 'fault', 'ignore-mask');
    const mask = (card.capability(PCI_CAP_ID_MSI) + 0x10).toString(16);
    const setMask = (value: string) => execFileSync('setpci', ['-s', CARD, `${mask}.l=${value}`]);
    setMask('1');
    card.set(REG_RAISE, 0);
    await until('the card has raised it', () => card.get(REG_INTERRUPTS) > 0);
    expect(message.count).toBe(0);
    setMask('0');
    await message.reaches(1);
    card.unwire(VFIO_PCI_MSI_IRQ_INDEX);
  });
});

describe.skipIf(CARD === '').each(INTERFACES)('by %s, another card', (how) => {
  test('that is conventional is reset through D3hot', () => {
    expect(resetMethods(PM)[0]).toBe('pm');
    using card = new HostCard(PM, how);
    expect(card.isExpress).toBe(false);
    card.set(REG_SCRATCH, 7);
    card.file.reset();
    expect([card.get(REG_ID), card.get(REG_SCRATCH)]).toEqual([CARD_ID, 0]);
  });

  test('with Advanced Features is reset by them', () => {
    expect(resetMethods(AF)[0]).toBe('af_flr');
    using card = new HostCard(AF, how);
    card.set(REG_SCRATCH, 7);
    card.file.reset();
    expect([card.get(REG_ID), card.get(REG_SCRATCH)]).toEqual([CARD_ID, 0]);
  });

  test('without any reset keeps what its last user left, and a run says so', () => {
    {
      using card = new HostCard(BARE, how);
      card.set(REG_SCRATCH, 7);
      expect(() => card.file.reset()).toThrow(/VFIO_DEVICE_RESET on .*: (ENOTTY|EINVAL)/);
    }
    using card = new HostCard(BARE, how);
    expect(card.get(REG_SCRATCH)).toBe(7);
    card[Symbol.dispose]();
    const { status, output } = runLoudly(['--device', `${BARE},interface=${how}`]);
    expect(output).toMatch(/not reset: it keeps the state of its last user/);
    expect(status).toBe(RAN);
  });

  test('whose BAR lies about its size has the size that VFIO says', () => {
    using card = new HostCard(LIAR, how);
    expect(card.file.getRegionInfo(SMALL_BAR).size).toBe(SMALL_BAR_BYTES);
  });
});

describe.skipIf(CARD === '').each(INTERFACES)('what a person sees by %s:', (how) => {
  const run = (address: string) => tsvisorRun(['--device', `${address},interface=${how}`]);
  const expectSilent = ({ status, error }: CommandResult) => {
    expect(error).toMatch(
      /^tsvisor: read on configuration space of .*: EIO\n {2}hint: it reads all-ones: the device was removed/,
    );
    expect(status).toBe(UNAVAILABLE);
  };
  const again = (address: string) => {
    execFileSync('vfio-unbind', [address]);
    execFileSync('vfio-bind', [address]);
    expect(run(address).status).toBe(RAN);
  };

  test('a card that has been pulled out', () => {
    served('bare', 'fault', 'removed');
    expectSilent(run(BARE));
    served('bare', 'fault', 'none');
    again(BARE);
  });

  // The kernel waits a minute, three times, for a card that does not answer after its own reset, as it may with real ones: this
  // one has none that the kernel knows of.
  test('a card that is dead after a reset', () => {
    served('dead', 'fault', 'dead-after-reset');
    execFileSync('setpci', ['-s', DEAD, 'CAP_EXP+8.w=8000:8000']);
    expect(rawId(DEAD)).toBe(0xffff_ffff);
    setResetMethod(DEAD, '');
    expectSilent(run(DEAD));
    served('dead', 'fault', 'none');
    setResetMethod(DEAD, 'default');
    again(DEAD);
  });

  test('a card that does not leave D3hot, though it is attached', () => {
    const log = new KernelLog();
    served('bare', 'fault', 'stuck-in-d3');
    const { status, output } = runLoudly(['--device', `${BARE},interface=${how}`]);
    expect(output).toMatch(
      new RegExp(
        `${BARE}: write of power state D0 on configuration space of .*${BARE}: EIO\n  hint: it is stuck in D3hot, .*power-cycle it`,
      ),
    );
    expect(status).toBe(RAN);
    expect(log.text).toMatch(new RegExp(`${BARE}: Refused to change power state from D3hot to D0`));
    served('bare', 'fault', 'none');
    again(BARE);
  });

  test('a card that a function level reset wakes, though nothing else does: no warning', () => {
    served('af', 'fault', 'stuck-in-d3');
    const { status, output } = runLoudly(['--device', `${AF},interface=${how}`]);
    expect(output).not.toMatch(/power state/);
    expect(status).toBe(RAN);
    served('af', 'fault', 'none');
    again(AF);
  });

  test('a card whose reset takes 3 s', () => {
    served('card', 'fault', 'reset-hangs:3000');
    const { status, output } = runLoudly(['--device', `${CARD},interface=${how}`]);
    expect(output).toMatch(new RegExp(`${CARD}: its reset took \\d+\\.\\d s: the device may be failing`));
    expect(status).toBe(RAN);
    served('card', 'fault', 'none');
    again(CARD);
  });

  test('a card that ignores its reset, which the kernel takes for one: nothing', () => {
    served('card', 'fault', 'reset-fails');
    const { status, output } = runLoudly(['--device', `${CARD},interface=${how}`]);
    expect(output).toMatch(new RegExp(`${CARD}: the device is reset`));
    expect(status).toBe(RAN);
    served('card', 'fault', 'none');
    again(CARD);
  });

  test('a NIC of this project: 10 of 10 pings of the built-in guest', () => {
    const { status, output, error } = run(NIC);
    expect({ status, error }).toEqual({ status: 0, error: '' });
    expect(output).toMatch(/10\/10 replies/);
  });
});
