import { describe, expect, onTestFinished, test } from 'vitest';
import { type GuestMisuseEvent, trace } from '../../sys/trace.js';
import { VFIO_GFX_PLANE_TYPE_PROBE, VFIO_GFX_PLANE_TYPE_REGION } from '../../vfio/uapi.js';
import { maps } from '../virtio-net/testing/guest.js';
import { allRemote } from '../virtio-net/testing/remote-maps.js';
import { taken } from '../virtio-net/testing/workbench.js';
import {
  COMMAND,
  CONTROLQ,
  CURSORQ,
  GpuBench,
  PICTURE_BYTES,
  PICTURES,
  pixelAt,
  pixels,
  RESPONSE,
  words,
} from './testing/workbench.js';

const EVENT_IDX = 1n << 29n;
const EDID = 1n << 1n;
const PLANE = { flags: VFIO_GFX_PLANE_TYPE_REGION, drmPlaneType: 1 };
const CURSOR = { ...PLANE, drmPlaneType: 2 };
const isSame = (a: Uint32Array | undefined, b: Uint32Array): boolean =>
  a !== undefined && Buffer.compare(Buffer.from(a.buffer), Buffer.from(b.buffer)) === 0;

const opened = (options: Readonly<Record<string, string>> = {}): GpuBench => new GpuBench(options).start();

test('a wrong option is EINVAL, and the hint lists all of them', () => {
  expect(() => new GpuBench({ heads: '17', width: '63', height: 'x', memory: '0', head: '1' })).toThrowError(
    /head\b.*heads: '17'.*1 to 16; width: '63'.*; height: 'x'.*; memory: '0'/,
  );
});

test('a card is a display of its class, and tells its number of screens', () => {
  using bench = opened({ heads: '3' });
  expect([bench.driver.config(2, 2), bench.driver.config(0x0a, 2)]).toEqual([0x1050, 0x0380]);
  expect([0, 4, 8, 12].map((at) => bench.driver.deviceConfig(at, 4))).toEqual([0, 0, 3, 0]);
  expect(bench.driver.deviceConfig(16, 4)).toBe(0xffff_ffff);
  expect(bench.driver.offered & 0xffffn).toBe(EDID);
});

test('screens stand side by side with their size, and each has an EDID with that mode', () => {
  using bench = opened({ heads: '2', width: '800', height: '600' });
  bench.ops.resize(1, { xres: 1280, yres: 1024 });
  const { type, data, length } = bench.send(CONTROLQ, COMMAND.displayInfo);
  expect([type, length]).toEqual([RESPONSE.displayInfo, 24 + 16 * 24]);
  const one = (i: number) => [0, 4, 8, 12, 16, 20].map((at) => data.getUint32(24 * i + at, true));
  expect([0, 1, 2].map(one)).toEqual([
    [0, 0, 800, 600, 1, 0],
    [800, 0, 1280, 1024, 1, 0],
    [0, 0, 0, 0, 0, 0],
  ]);
  const edid = bench.send(CONTROLQ, COMMAND.edid, words(1, 0));
  expect([edid.type, edid.length, edid.data.getUint32(0, true)]).toEqual([RESPONSE.edid, 24 + 8 + 1024, 128]);
  const block = new Uint8Array(edid.data.buffer, edid.data.byteOffset + 8, 128);
  expect([...block.subarray(0, 8)]).toEqual([0, 255, 255, 255, 255, 255, 255, 0]);
  expect(block.reduce((sum, byte) => sum + byte, 0) % 256).toBe(0);
  expect(block[56]! | ((block[58]! >> 4) << 8)).toBe(1280);
  expect(bench.send(CONTROLQ, COMMAND.edid, words(2, 0)).type).toBe(RESPONSE.scanout);
});

test('without its feature, there is no EDID', () => {
  using bench = new GpuBench();
  bench.start(bench.driver.offered & ~EDID);
  expect(bench.send(CONTROLQ, COMMAND.edid, words(0, 0)).type).toBe(RESPONSE.unspec);
});

describe.each([
  ['memory of this process', undefined],
  ['memory that is accessed by message', allRemote],
] as const)('with %s', (_, list) => {
  function reached(options: Readonly<Record<string, string>> = {}): GpuBench {
    const bench = new GpuBench(options);
    if (list !== undefined) bench.memory.map(list);
    return bench.start();
  }

  test('a picture is shown as the guest has transferred it, until it transfers it again', () => {
    using bench = reached();
    bench.picture(5, 64, 48, 1);
    expect(bench.shown()).toBeUndefined();
    expect(bench.setScanout(0, 5, 0, 0, 64, 48)).toBe(RESPONSE.ok);
    expect(bench.shown()).toEqual(new Uint32Array(64 * 48));
    expect(bench.transfer(5, 0, 0, 64, 48, 0)).toBe(RESPONSE.ok);
    expect(isSame(bench.shown(), pixels(64 * 48, 1))).toBe(true);
    bench.draw(64, 48, 2);
    expect(isSame(bench.shown(), pixels(64 * 48, 1))).toBe(true);
    bench.transfer(5, 0, 0, 64, 48, 0);
    expect(bench.control(COMMAND.flush, 0, 0, 64, 48, 5, 0)).toBe(RESPONSE.ok);
    expect(isSame(bench.shown(), pixels(64 * 48, 2))).toBe(true);
    expect(bench.setScanout(0, 0, 0, 0, 0, 0)).toBe(RESPONSE.ok);
    expect(bench.shown()).toBeUndefined();
    expect(bench.instance.counters()).toMatchObject({
      transfers: 2,
      transferredBytes: 2 * 64 * 48 * 4,
      flushes: 1,
      errors: 0,
    });
  });

  test('a rectangle is transferred from its place in the backing, whose pieces may be anywhere', () => {
    using bench = reached();
    bench.create(1, 32, 32);
    const [border, bytes] = [maps.next.iova, 4 * 32 * 32];
    // Some of them meet, and one lies in two maps.
    const pieces: [number, number][] = [
      [border - 400, 1000],
      [border + 600, 24],
      [PICTURES + 50_000, 4],
      [PICTURES, bytes - 1028],
    ];
    expect(bench.attach(1, pieces)).toBe(RESPONSE.ok);
    let i = 0;
    for (const [at, length] of pieces)
      for (let done = 0; done < length; done += 4)
        bench.memory.words.setUint32(bench.memory.at(at + done), pixelAt(i++, 3), true);
    bench.setScanout(0, 1, 0, 0, 32, 32);
    expect(bench.transfer(1, 5, 3, 7, 20, 4 * (3 * 32 + 5))).toBe(RESPONSE.ok);
    const expected = pixels(32 * 32, 3).map((pixel, at) => {
      const [x, y] = [at % 32, Math.floor(at / 32)];
      return x >= 5 && x < 12 && y >= 3 && y < 23 ? pixel : 0;
    });
    expect(isSame(bench.shown(), expected)).toBe(true);
    bench.transfer(1, 0, 0, 32, 32, 0);
    expect(isSame(bench.shown(), pixels(32 * 32, 3))).toBe(true);
  });

  test('a fenced command is answered with its fence and context', () => {
    using bench = reached();
    const fence = { id: 0x1234_5678_9abc_def0n, ctx: 7 };
    const answer = bench.send(CONTROLQ, COMMAND.create, words(1, 2, 8, 8), fence);
    expect(answer).toMatchObject({ type: RESPONSE.ok, flags: 1, fence: fence.id, ctx: 7, length: 24 });
    const refused = bench.send(CONTROLQ, COMMAND.create, words(1, 2, 8, 8), fence);
    expect(refused).toMatchObject({ type: RESPONSE.resource, flags: 1, fence: fence.id, ctx: 7 });
    expect(bench.send(CONTROLQ, COMMAND.unref, words(1, 0))).toMatchObject({ flags: 0, fence: 0n, ctx: 0 });
  });

  test('a cursor has the pixels of its update, and moves without them', () => {
    using bench = reached({ heads: '2' });
    bench.picture(9, 64, 64, 4);
    bench.transfer(9, 0, 0, 64, 64, 0);
    expect(bench.cursor(COMMAND.updateCursor, 1, 100, -7, 0, 9, 3, 4, 0)).toBe(RESPONSE.ok);
    expect(isSame(bench.shown(1, 2), pixels(64 * 64, 4))).toBe(true);
    expect(bench.shown(0, 2)).toBeUndefined();
    const place = () => {
      const { xPos, yPos, xHot, yHot } = bench.ops.queryGfxPlane({ ...CURSOR, head: 1 });
      return [xPos | 0, yPos | 0, xHot, yHot];
    };
    expect(place()).toEqual([100, -7, 3, 4]);
    expect(bench.control(COMMAND.unref, 9, 0)).toBe(RESPONSE.ok);
    expect(bench.cursor(COMMAND.moveCursor, 1, 12, 13, 0, 9, 0, 0, 0)).toBe(RESPONSE.ok);
    expect(place()).toEqual([12, 13, 3, 4]);
    expect(isSame(bench.shown(1, 2), pixels(64 * 64, 4))).toBe(true);
    expect(bench.cursor(COMMAND.updateCursor, 1, 0, 0, 0, 0, 0, 0, 0)).toBe(RESPONSE.ok);
    expect(bench.shown(1, 2)).toBeUndefined();
  });
});

test('the number of drawing is another one after whatever changes what is visible, on all heads, and stays while nothing does', () => {
  using bench = opened({ heads: '2' });
  bench.picture(9, 64, 64, 4);
  const numbers = () => [0, 1].map((head) => bench.ops.queryGfxPlane({ ...PLANE, head }).drawn);
  const seen = new Set(numbers());
  const changes: readonly (() => unknown)[] = [
    () => bench.setScanout(1, 9, 0, 0, 64, 64),
    () => bench.transfer(9, 0, 0, 64, 64, 0),
    () => bench.cursor(COMMAND.updateCursor, 1, 1, 2, 0, 9, 3, 4, 0),
    () => bench.cursor(COMMAND.moveCursor, 1, 12, 13, 0, 9, 0, 0, 0),
    () => bench.control(COMMAND.unref, 9, 0),
    () => bench.ops.reset(),
  ];
  for (const [i, change] of changes.entries()) {
    change();
    const [first, second] = numbers();
    expect(seen.has(first), `after change ${i}`).toBe(false);
    expect([first, ...numbers()]).toEqual([second, second, second]);
    seen.add(first);
  }
  expect(bench.ops.queryGfxPlane(CURSOR).drawn).toBeUndefined();
  using other = opened();
  expect(seen).not.toContain(other.ops.queryGfxPlane(PLANE).drawn);
});

test('Linux’s cursor commands have no room for a response: they are done, and come back', () => {
  using bench = opened();
  bench.picture(9, 64, 64, 4);
  const command = Buffer.concat([words(COMMAND.updateCursor, 0, 0, 0, 0, 0), words(0, 5, 6, 0, 9, 0, 0, 0)]);
  bench.queues[CURSORQ]!.add([bench.place(command).command]);
  bench.ring(CURSORQ);
  expect(bench.queues[CURSORQ]!.reap()).toEqual([{ id: 0, length: 0 }]);
  expect(bench.ops.queryGfxPlane(CURSOR)).toMatchObject({ xPos: 5, yPos: 6 });
  expect(bench.instance.counters().errors).toBe(0);
});

test('each head shows its own part of a resource, or another resource', () => {
  using bench = opened({ heads: '2' });
  bench.picture(1, 64, 32, 1);
  bench.transfer(1, 0, 0, 64, 32, 0);
  expect(bench.setScanout(0, 1, 0, 0, 32, 32)).toBe(RESPONSE.ok);
  expect(bench.setScanout(1, 1, 32, 16, 32, 16)).toBe(RESPONSE.ok);
  const part = (x: number, y: number, width: number, height: number) =>
    Uint32Array.from({ length: width * height }, (_, i) =>
      pixelAt((y + Math.floor(i / width)) * 64 + x + (i % width), 1),
    );
  expect(isSame(bench.shown(0), part(0, 0, 32, 32))).toBe(true);
  expect(isSame(bench.shown(1), part(32, 16, 32, 16))).toBe(true);
  bench.picture(2, 16, 16, 2);
  bench.transfer(2, 0, 0, 16, 16, 0);
  bench.setScanout(1, 2, 0, 0, 16, 16);
  bench.control(COMMAND.unref, 1, 0);
  expect(bench.shown(0)).toBeUndefined();
  expect(isSame(bench.shown(1), pixels(256, 2))).toBe(true);
  expect(() => bench.shown(2)).toThrowError(/head 2: EINVAL\n.*it has 2, from 0 on/);
  const probe = { ...PLANE, flags: PLANE.flags | VFIO_GFX_PLANE_TYPE_PROBE };
  expect(bench.ops.queryGfxPlane({ ...probe, head: 1 }).drmFormat).toBe(0);
});

test.each([
  [1, 'XR24'],
  [2, 'XR24'],
  [3, 'BX24'],
  [4, 'BX24'],
  [67, 'XB24'],
  [68, 'RX24'],
  [121, 'RX24'],
  [134, 'XB24'],
])('format %d is shown as %s', (format, fourcc) => {
  using bench = opened();
  bench.create(1, 16, 16, format);
  bench.setScanout(0, 1, 0, 0, 16, 16);
  const { drmFormat } = bench.ops.queryGfxPlane(PLANE);
  expect(String.fromCharCode(...[0, 8, 16, 24].map((shift) => (drmFormat >>> shift) & 0xff))).toBe(fourcc);
});

describe('what cannot be is an error response', () => {
  test('of a resource that is there already, is not, has no pixels or an unknown format', () => {
    using bench = opened();
    expect(bench.create(1, 8, 8)).toBe(RESPONSE.ok);
    expect(bench.create(1, 8, 8)).toBe(RESPONSE.resource);
    expect(bench.create(0, 8, 8)).toBe(RESPONSE.resource);
    expect(bench.create(2, 0, 8)).toBe(RESPONSE.parameter);
    expect(bench.create(2, 8, 8, 5)).toBe(RESPONSE.parameter);
    expect(bench.control(COMMAND.unref, 2, 0)).toBe(RESPONSE.resource);
    expect(bench.control(COMMAND.detach, 2, 0)).toBe(RESPONSE.resource);
    expect(bench.transfer(2, 0, 0, 1, 1, 0)).toBe(RESPONSE.resource);
    expect(bench.control(COMMAND.flush, 0, 0, 1, 1, 2, 0)).toBe(RESPONSE.resource);
    expect(bench.setScanout(0, 2, 0, 0, 8, 8)).toBe(RESPONSE.resource);
    expect(bench.setScanout(1, 1, 0, 0, 8, 8)).toBe(RESPONSE.scanout);
    expect(bench.cursor(COMMAND.updateCursor, 1, 0, 0, 0, 1, 0, 0, 0)).toBe(RESPONSE.scanout);
    expect(bench.cursor(COMMAND.moveCursor, 1, 0, 0, 0, 1, 0, 0, 0)).toBe(RESPONSE.scanout);
    expect(bench.cursor(COMMAND.updateCursor, 0, 0, 0, 0, 2, 0, 0, 0)).toBe(RESPONSE.resource);
    expect(bench.cursor(COMMAND.updateCursor, 0, 0, 0, 0, 1, 0, 0, 0)).toBe(RESPONSE.parameter);
    expect(bench.control(0x10c)).toBe(RESPONSE.unspec);
    expect(bench.control(COMMAND.moveCursor, 0, 0, 0, 0, 0, 0, 0, 0)).toBe(RESPONSE.unspec);
    expect(bench.cursor(COMMAND.create, 3, 2, 8, 8)).toBe(RESPONSE.unspec);
    expect(bench.instance.counters().errors).toBe(17);
  });

  test('of rectangles that leave the resource, however they overflow', () => {
    using bench = opened();
    bench.picture(1, 16, 16, 1);
    const most = 0xffff_ffff;
    for (const [x, y, width, height] of [
      [0, 0, 17, 1],
      [16, 0, 1, 1],
      [most, 0, 2, 1],
      [0, most, 1, 2],
      [1, 1, most, most],
      [0, 0, 0, 16],
      [0, 0, 16, 0],
    ] as const) {
      expect(bench.transfer(1, x, y, width, height, 0)).toBe(RESPONSE.parameter);
      expect(bench.setScanout(0, 1, x, y, width, height)).toBe(RESPONSE.parameter);
      expect(bench.control(COMMAND.flush, x, y, width, height, 1, 0)).toBe(RESPONSE.parameter);
    }
    expect(bench.transfer(1, 0, 0, 16, 16, 4)).toBe(RESPONSE.parameter);
    expect(bench.control(COMMAND.transfer, 0, 0, 1, 1, 0, most, 1, 0)).toBe(RESPONSE.parameter);
  });

  test('of a backing that is absurd, twice there, or not in memory', () => {
    using bench = opened();
    bench.create(1, 16, 16);
    expect(bench.transfer(1, 0, 0, 16, 16, 0)).toBe(RESPONSE.unspec);
    for (const count of [0, 1, 16_385, 0xffff_ffff])
      expect(bench.control(COMMAND.attach, 1, count)).toBe(RESPONSE.parameter);
    expect(bench.attach(1, [[PICTURES, 0]])).toBe(RESPONSE.parameter);
    expect(bench.attach(1, [[2 ** 63, 1024]])).toBe(RESPONSE.parameter);
    expect(bench.attach(1, [[0x9000_0000, 1024]])).toBe(RESPONSE.ok);
    expect(bench.attach(1, [[PICTURES, 1024]])).toBe(RESPONSE.unspec);
    expect(bench.transfer(1, 0, 0, 16, 16, 0)).toBe(RESPONSE.unspec);
    expect(bench.control(COMMAND.detach, 1, 0)).toBe(RESPONSE.ok);
    expect(bench.attach(1, [[PICTURES, 1024]])).toBe(RESPONSE.ok);
    expect(bench.transfer(1, 0, 0, 16, 16, 0)).toBe(RESPONSE.ok);
    expect(bench.needsReset).toBe(false);
  });

  test('of a command that is cut short, and of a response without room', () => {
    using bench = opened();
    expect(bench.send(CONTROLQ, COMMAND.create, words(1, 2, 8)).type).toBe(RESPONSE.parameter);
    const small = bench.send(CONTROLQ, COMMAND.displayInfo, words(), undefined, 100);
    expect([small.type, small.length]).toEqual([RESPONSE.parameter, 24]);
    const none = bench.send(CONTROLQ, COMMAND.create, words(1, 2, 8, 8), undefined, 23);
    expect([none.type, none.length]).toEqual([0xeeee_eeee, 0]);
    expect(bench.ops.resourceCount).toBe(1);
  });

  test('of resources beyond the memory, or their number, and what is freed can be had again', () => {
    using bench = opened({ memory: '1' });
    expect(bench.create(1, 512, 513)).toBe(RESPONSE.outOfMemory);
    expect(bench.create(1, 0xffff_ffff, 0xffff_ffff)).toBe(RESPONSE.outOfMemory);
    expect(bench.create(1, 512, 256)).toBe(RESPONSE.ok);
    expect(bench.create(2, 512, 257)).toBe(RESPONSE.outOfMemory);
    expect(bench.create(2, 512, 256)).toBe(RESPONSE.ok);
    expect(bench.create(3, 1, 1)).toBe(RESPONSE.outOfMemory);
    bench.control(COMMAND.unref, 1, 0);
    expect(bench.create(3, 1, 1)).toBe(RESPONSE.ok);
    bench.control(COMMAND.unref, 3, 0);
    bench.control(COMMAND.unref, 2, 0);
    expect(bench.create(4, 512, 512)).toBe(RESPONSE.ok);
    using many = opened({ memory: '8' });
    for (let id = 1; id <= 1024; id++) expect(many.create(id, 1, 1)).toBe(RESPONSE.ok);
    expect(many.create(1025, 1, 1)).toBe(RESPONSE.outOfMemory);
  });
});

test('a new picture shows nothing of an old one, nor does the next user’s', () => {
  using bench = opened({ memory: '1' });
  bench.picture(1, 256, 256, 1);
  bench.transfer(1, 0, 0, 256, 256, 0);
  bench.control(COMMAND.unref, 1, 0);
  bench.create(2, 512, 512);
  bench.setScanout(0, 2, 0, 0, 512, 512);
  expect(bench.shown()!.every((pixel) => pixel === 0)).toBe(true);
  bench.attach(2, [[PICTURES, 1 << 20]]);
  bench.transfer(2, 0, 0, 512, 512, 0);
  const { regionIndex } = bench.ops.queryGfxPlane(PLANE);
  bench.ops.reset();
  expect(bench.shown()).toBeUndefined();
  const all = new Uint8Array(bench.ops.getRegionInfo(regionIndex).size);
  bench.ops.read(regionIndex, 0, all);
  expect(all.every((byte) => byte === 0)).toBe(true);
});

describe('a screen that is resized', () => {
  test('interrupts, is an event until the driver clears it, and changes the generation', () => {
    using bench = opened({ heads: '2' });
    const generation = bench.driver.common(0x15, 1);
    bench.ops.resize(0, { xres: 640, yres: 480 });
    expect(taken(bench.vectors[0]!)).toBe(1);
    expect(bench.driver.deviceConfig(0, 4)).toBe(1);
    expect(bench.driver.common(0x15, 1)).not.toBe(generation);
    const { offset } = bench.driver.structure(4);
    bench.ops.write(4, offset + 4, words(1));
    expect(bench.driver.deviceConfig(0, 4)).toBe(0);
    expect(() => bench.ops.resize(2, { xres: 640, yres: 480 })).toThrowError(/ENODEV/);
    expect(() => bench.ops.resize(0, { xres: 0, yres: 480 })).toThrowError(RangeError);
    expect(taken(bench.vectors[0]!)).toBe(0);
  });

  test('by its EDID region is told as well, and one whose link is down is disconnected', () => {
    using bench = opened();
    const { regionIndex } = bench.ops.queryGfxPlane(PLANE);
    const region = regionIndex + 1;
    const write = (at: number, data: Uint8Array) => bench.ops.write(region, at, data);
    const enabled = () => bench.send(CONTROLQ, COMMAND.displayInfo).data;
    write(20, words(2));
    expect(taken(bench.vectors[0]!)).toBe(1);
    expect(enabled().getUint32(16, true)).toBe(0);
    using other = opened({ width: '1920', height: '1080' });
    const edid = other.send(CONTROLQ, COMMAND.edid, words(0, 0)).data;
    write(64, new Uint8Array(edid.buffer, edid.byteOffset + 8, 128));
    write(20, words(1));
    expect(taken(bench.vectors[0]!)).toBe(1);
    expect([8, 12, 16].map((at) => enabled().getUint32(at, true))).toEqual([1920, 1080, 1]);
  });

  test('is as it was for the next one who opens the device', () => {
    using bench = opened();
    bench.ops.resize(0, { xres: 640, yres: 480 });
    bench.ops.closeDevice();
    bench.ops.openDevice(bench.memory.open);
    bench.start();
    const { data } = bench.send(CONTROLQ, COMMAND.displayInfo);
    expect([8, 12].map((at) => data.getUint32(at, true))).toEqual([1024, 768]);
    expect(bench.driver.deviceConfig(0, 4)).toBe(0);
  });
});

test('a queue whose commands come one after the other wants a doorbell, and interrupts for each', () => {
  using bench = new GpuBench();
  bench.start(bench.driver.offered & ~EVENT_IDX);
  for (let i = 1; i <= 300; i++) {
    bench.create(i, 1, 1);
    expect(taken(bench.vectors[1]!)).toBe(1);
  }
  expect(bench.ops.resourceCount).toBe(300);
});

test('a chain without a header, and one that is too long, come back with nothing, and are told', () => {
  using bench = opened();
  const told: string[] = [];
  const hear = ({ text = '' }: GuestMisuseEvent) => void told.push(text);
  trace.guestMisuse.subscribe(hear);
  onTestFinished(() => void trace.guestMisuse.unsubscribe(hear));
  bench.queues[CONTROLQ]!.add([
    { address: PICTURES, length: 23 },
    { address: PICTURES + 64, length: 64, isDeviceWritable: true },
  ]);
  bench.queues[CONTROLQ]!.add([
    { address: PICTURES, length: PICTURE_BYTES },
    { address: PICTURES + 64, length: 64, isDeviceWritable: true },
  ]);
  bench.ring(CONTROLQ);
  expect(bench.queues[CONTROLQ]!.reap().map(({ length }) => length)).toEqual([0, 0]);
  expect(told).toEqual([
    'queue 0: a command of 23 bytes in a chain of 87',
    expect.stringMatching(/^queue 0: a command of \d+ bytes in a chain of \d{7}$/),
  ]);
  expect(bench.needsReset).toBe(false);
});
