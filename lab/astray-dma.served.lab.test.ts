/** A test card's DMA outside its maps: refused by L1's IOMMU, reported by L1's kernel, and an error for the card. */
import { execFileSync } from 'node:child_process';
import { randomFillSync } from 'node:crypto';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { ASTRAY } from '../devices/testcard/faults.js';
import {
  CARD_ID,
  DMA_CHECK,
  DMA_COPY,
  DMA_DONE,
  DMA_ERROR,
  DMA_FILL,
  REG_ID,
} from '../devices/testcard/spec.js';
import { HostCard, KernelLog, MEMORY_BYTES, MEMORY_IOVA, refusedAccess, served } from './host-card.js';

const { LAB_CARD: CARD = '' } = process.env;
const INTERFACES = ['group', 'iommufd'] as const;
const PAGE = 4096;
const fill = { command: DMA_FILL, length: PAGE, value: 0xff };

beforeAll(() => {
  if (CARD === '') return;
  execFileSync('vfio-load');
  execFileSync('vfio-bind', [CARD]);
});
afterAll(() => {
  if (CARD !== '') execFileSync('vfio-unbind', [CARD]);
});

describe.skipIf(CARD === '').each(INTERFACES)('by %s, a card', (how) => {
  let card: HostCard;
  let log: KernelLog;
  const view = () => card.memory.view.slice(0, MEMORY_BYTES);
  const refused = (transfer: Parameters<HostCard['transfer']>[0], at: number) =>
    refusedAccess(log, CARD, at, () => card.transfer(transfer));
  beforeEach(() => {
    card = new HostCard(CARD, how);
    log = new KernelLog();
  });
  afterEach(() => {
    served('card', 'fault', 'none');
    card[Symbol.dispose]();
  });

  test('that writes before or after its memory is refused, by its address', async () => {
    for (const target of [MEMORY_BYTES, -PAGE]) {
      const { report, given } = await refused({ ...fill, target }, MEMORY_IOVA + target);
      expect([given.status, given.moved]).toEqual([DMA_ERROR, 0]);
      expect(report).toMatch(/DMAR: \[DMA Write NO_PASID\] .* PTE Write access is not set/);
    }
    expect(view().every((byte) => byte === 0)).toBe(true);
    expect((await card.transfer({ ...fill, target: 0 })).status).toBe(DMA_DONE);
  });

  test('that reads what is not mapped is refused, and nothing is copied', async () => {
    for (const transfer of [
      { command: DMA_CHECK, source: MEMORY_BYTES, length: 8 },
      { command: DMA_COPY, source: 2 * MEMORY_BYTES, target: 0, length: PAGE },
    ]) {
      const { report, given } = await refused(transfer, MEMORY_IOVA + transfer.source);
      expect(report).toMatch(/DMAR: \[DMA Read NO_PASID\]/);
      expect(given.status).toBe(DMA_ERROR);
    }
    expect(view().every((byte) => byte === 0)).toBe(true);
  });

  test('whose memory is unmapped reaches it no more', async () => {
    expect((await card.transfer({ ...fill, target: 0 })).status).toBe(DMA_DONE);
    card.unmap();
    expect((await refused({ ...fill, target: PAGE }, MEMORY_IOVA + PAGE)).given.status).toBe(DMA_ERROR);
    expect(view().findIndex((byte) => byte !== 0xff)).toBe(PAGE);
  });

  test('without bus mastering reaches nothing, and the IOMMU hears of nothing', async () => {
    card.master(false);
    for (const target of [0, MEMORY_BYTES])
      expect((await card.transfer({ ...fill, target })).status).toBe(DMA_ERROR);
    expect(view().every((byte) => byte === 0)).toBe(true);
    expect(log.text).not.toMatch(/DMAR: \[DMA/);
  });

  test('whose DMA goes astray, by its fault, is reported 2^46 bytes away, and works afterwards', async () => {
    const before = randomFillSync(view()).slice();
    served('card', 'fault', 'dma-astray');
    expect((await refused({ ...fill, target: 0 }, MEMORY_IOVA + ASTRAY)).given.status).toBe(DMA_ERROR);
    expect(Buffer.compare(view(), before)).toBe(0);
    expect(card.get(REG_ID)).toBe(CARD_ID);
    served('card', 'fault', 'none');
    expect((await card.transfer({ ...fill, target: 0 })).status).toBe(DMA_DONE);
    expect(view().findIndex((byte) => byte !== 0xff)).toBeGreaterThanOrEqual(PAGE);
  });
});
