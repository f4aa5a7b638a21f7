import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { setDeviceState } from '../../vfio/core/migration.js';
import {
  VFIO_DEVICE_STATE_RESUMING,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_STOP,
  VFIO_DEVICE_STATE_STOP_COPY,
} from '../../vfio/feature.js';
import { VFIO_PCI_NUM_REGIONS } from '../../vfio/uapi.js';
import { resumeState, saveState } from '../mdev/testing/migrate.js';
import { mutationOf } from '../mdev/testing/mutations.js';
import { VgpuDevice } from './device.js';
import { createEdid } from './edid.js';
import { DISPI_AT, EDID_AT, QEXT_AT, REGISTER_BAR, REGISTER_BAR_BYTES } from './spec.js';

const VRAM = 256 << 10;
const PAGE = 4096;
const EDID_REGION = VFIO_PCI_NUM_REGIONS;

function opened({ vramBytes = VRAM, xres = 200, yres = 100 } = {}): VgpuDevice {
  const card = new VgpuDevice({ name: 'vgpu', vramBytes, xres, yres });
  card.openDevice();
  return card;
}

function write(card: VgpuDevice, at: number, bytes: 2 | 4, value: number): void {
  const data = Buffer.alloc(bytes);
  data.writeUIntLE(value, 0, bytes);
  card.write(REGISTER_BAR, at, data);
}

function setMode(card: VgpuDevice, mode: readonly number[]): void {
  for (const [i, value] of mode.entries()) write(card, DISPI_AT + 2 * i, 2, value);
}

const sumOf = (data: Uint8Array): string => createHash('sha1').update(data).digest('hex');

/** What a guest, and the host, can see of a card. */
function seen(card: VgpuDevice) {
  const registers = new Uint8Array(REGISTER_BAR_BYTES);
  card.read(REGISTER_BAR, 0, registers);
  const screen = new Uint8Array(card.getRegionInfo(EDID_REGION).size as number);
  card.read(EDID_REGION, 0, screen);
  const [registersSum, screenSum, memory] = [registers, screen, card.vram].map(sumOf);
  return { registersSum, screenSum, memory, plane: card.plane };
}

const MODE = [0, 160, 90, 32, 0x41, 0, 170, 0, 3, 2];

test('whatever a guest has written, a card with its state shows and answers the same', () => {
  const registers = fc.array(fc.tuple(fc.nat(10), fc.nat(0xffff)), { maxLength: 12 });
  const drawing = fc.array(fc.tuple(fc.nat(VRAM - 64), fc.uint8Array({ maxLength: 64 })), { maxLength: 12 });
  const order = fc.constantFrom(0x1e1e_1e1e, 0xbebe_bebe, 7);
  const screen = fc.option(
    fc.record({
      edid: fc.uint8Array({ minLength: 1, maxLength: 1024 }),
      size: fc.nat(1024),
      link: fc.constantFrom(1, 2),
    }),
  );
  fc.assert(
    fc.property(registers, drawing, order, screen, drawing, (all, pixels, ordered, monitor, others) => {
      using from = opened();
      using to = opened({ xres: 64, yres: 64 });
      setMode(from, MODE);
      for (const [register, value] of all) write(from, DISPI_AT + 2 * register, 2, value);
      for (const [at, data] of pixels) from.vram.set(data, at);
      for (const [at, data] of others) to.vram.set(data, at); // an earlier picture, which must be gone
      write(from, QEXT_AT + 4, 4, ordered);
      if (monitor !== null) {
        from.write(EDID_REGION, 64, monitor.edid);
        for (const [at, value] of [
          [8, monitor.size],
          [20, monitor.link],
        ] as const)
          from.write(EDID_REGION, at, Uint8Array.of(value & 0xff, value >> 8, 0, 0));
      }
      const estimate = Number(from.migration.getDataSize());
      const state = saveState(from);
      expect(state.length).toBe(estimate);
      expect(resumeState(to, state)).toBe('ok');
      expect(seen(to)).toEqual(seen(from)); // pixel for pixel
      expect(sumOf(saveState(to))).toBe(sumOf(state));
    }),
    { numRuns: 200 },
  );
});

test('a state has the pages that were drawn in, and no others', () => {
  using card = opened();
  const empty = saveState(card).length;
  expect(empty).toBeLessThan(PAGE);
  card.vram[5 * PAGE + 4095] = 1;
  card.vram[9 * PAGE] = 1;
  expect(saveState(card).length).toBe(empty + 2 * (4 + PAGE));
  expect(resumeState(card, saveState(card))).toBe('ok');
  card.vram.fill(0xff);
  expect(saveState(card).length).toBe(empty + (VRAM / PAGE) * (4 + PAGE));
  expect(resumeState(card, saveState(card))).toBe('ok');
});

test('the guest keeps the screen that it has seen, until the card is opened again', () => {
  using from = opened({ xres: 120, yres: 80 });
  using to = opened();
  const limits = (card: VgpuDevice) => {
    write(card, DISPI_AT + 8, 2, 2);
    return [1, 2].map((register) => {
      const value = Buffer.alloc(2);
      card.read(REGISTER_BAR, DISPI_AT + 2 * register, value);
      return value.readUInt16LE();
    });
  };
  const edid = (card: VgpuDevice) => {
    const data = new Uint8Array(128);
    card.read(REGISTER_BAR, EDID_AT, data);
    return data;
  };
  expect(resumeState(to, saveState(from))).toBe('ok');
  expect(limits(to)).toEqual([120, 80]);
  expect(edid(to)).toEqual(createEdid(120, 80));
  to.reset();
  expect(limits(to)).toEqual([120, 80]);
  to.closeDevice();
  to.openDevice();
  expect(limits(to)).toEqual([200, 100]);
  expect(edid(to)).toEqual(createEdid(200, 100));
});

test('a state of a card with other memory is EINVAL, which says the sizes', () => {
  using small = opened({ vramBytes: 1 << 20 });
  using large = opened({ vramBytes: 2 << 20 });
  for (const [from, to] of [
    [small, large],
    [large, small],
  ] as const) {
    const state = saveState(from);
    {
      using into = setDeviceState(to, VFIO_DEVICE_STATE_RESUMING);
      into?.write(state);
    }
    const [saved, own] = from === small ? [1, 2] : [2, 1];
    expect(() => setDeviceState(to, VFIO_DEVICE_STATE_STOP)).toThrowError(
      new RegExp(
        `EINVAL\\n.*not what a display card with ${own} MiB saves .that of a card with ${saved} MiB`,
      ),
    );
    expect(to.migration.getState()).toBe(VFIO_DEVICE_STATE_RESUMING);
    for (const card of [from, to]) {
      card.reset();
      expect(card.migration.getState()).toBe(VFIO_DEVICE_STATE_RUNNING);
    }
  }
});

test('what is not a state leaves the card as it was', () => {
  using from = opened();
  using to = opened();
  setMode(from, MODE);
  from.vram.fill(7, 0, PAGE);
  from.vram.fill(8, 3 * PAGE, 4 * PAGE);
  const state = saveState(from);
  setMode(to, [0, 64, 64, 16, 0x41]);
  to.vram.fill(9, 0, 100);
  const before = seen(to);
  const at = state.length - 2 * (4 + PAGE) - 4;
  const edit = (place: number, value: number) => {
    const wrong = Buffer.from(state);
    wrong.writeUInt32LE(value, place);
    return wrong;
  };
  for (const [wrong, problem] of [
    [new Uint8Array(0), 'it does not begin as one'],
    [edit(0, 7), 'it does not begin as one'],
    [edit(4, 2), 'its format is version 2, and this reads version 1'],
    [state.subarray(0, 40), 'it ends after 40 bytes, inside a field'],
    [state.subarray(0, -1), `it ends after ${state.length - 1} bytes, inside a field`],
    [Buffer.concat([state, Uint8Array.of(0)]), '1 bytes follow its end'],
    [edit(at, 1), `${4 + PAGE} bytes follow its end`],
    [edit(at, 65), '65 pages of video memory, where 64 fit'],
    [edit(at + 4, 4), 'page 3 of video memory'], // not in order
    [edit(at + 8 + PAGE, 64), 'page 64 of video memory'],
  ] as const) {
    {
      using into = setDeviceState(to, VFIO_DEVICE_STATE_RESUMING);
      into?.write(wrong);
    }
    expect(() => setDeviceState(to, VFIO_DEVICE_STATE_STOP)).toThrowError(`(${problem})`);
    expect(seen(to)).toEqual(before);
    to.migration.reset(); // as a reset would, but for the memory
  }
});

test('10,000 wrong states are each refused, or show a picture that lies in video memory', () => {
  using from = opened();
  using to = opened();
  setMode(from, MODE);
  for (let page = 0; page < 3; page++) from.vram.fill(page + 1, page * PAGE, (page + 1) * PAGE);
  let loaded = 0;
  fc.assert(
    fc.property(mutationOf(saveState(from)), (wrong) => {
      const outcome = resumeState(to, wrong);
      if (outcome === 'ok') loaded++;
      else expect(outcome).toBe('EINVAL');
      const { plane } = to;
      if (plane !== undefined) expect(plane.offset + (plane.height - 1) * plane.stride).toBeLessThan(VRAM);
      seen(to);
      to.reset();
      expect(to.migration.getState()).toBe(VFIO_DEVICE_STATE_RUNNING);
    }),
    { numRuns: 10_000 },
  );
  expect(loaded).toBeGreaterThan(500);
  expect(loaded).toBeLessThan(9500);
});

test('the stream of a card that is gone reads nothing more of its memory', () => {
  const card = opened({ vramBytes: 64 << 20 });
  card.vram.fill(7);
  const stream = setDeviceState(card, VFIO_DEVICE_STATE_STOP_COPY);
  expect(stream?.read(new Uint8Array(PAGE))).toBe(PAGE);
  card[Symbol.dispose]();
  expect(() => stream?.read(new Uint8Array(PAGE))).toThrowError(/ENODEV/);
});
