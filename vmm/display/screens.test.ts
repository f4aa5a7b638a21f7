import { afterEach, expect, test } from 'vitest';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { Fd } from '../../sys/fd.js';
import { createSharedMemory, Mapping, type SharedMemory } from '../../sys/mapping.js';
import type { RecordingDevice } from '../../vfio/testing/recording-device.js';
import { World } from '../../vfio/testing/world.js';
import {
  type GfxPlaneInfo,
  type GfxPlaneQuery,
  VFIO_GFX_PLANE_TYPE_DMABUF,
  VFIO_GFX_PLANE_TYPE_PROBE,
  VFIO_REGION_INFO_FLAG_MMAP,
} from '../../vfio/uapi.js';
import { encodeError } from '../error-data.js';
import { chooseDisplay, DeviceDisplay } from './device-display.js';
import type { PlaneCommand, ScreenCommand, ShownPlane } from './messages.js';
import { type Look, Screens } from './screens.js';

const BYTES = 3 * 4096;
const PLANE: GfxPlaneInfo = {
  ...{ drmFormat: 0x3432_5258, drmFormatMod: 0n, width: 4, height: 2, stride: 32, size: 4096 },
  ...{ xPos: 0, yPos: 0, xHot: 0, yHot: 0, regionIndex: 0, offset: 4100 },
};

const SECOND = { width: 2, height: 2, stride: 8, offset: 8192 };
const CURSOR = { ...PLANE, ...SECOND, drmFormat: 0x3432_5241, xPos: 2, yPos: 0xffff_ffff, offset: 0 };

const ends: (() => void)[] = [];
afterEach(() => {
  for (const end of ends.splice(0).reverse()) end();
});

/** A device whose video memory is a memory file, or can only be mapped, like a kernel device's. */
function card(kind: 'memfd' | 'mapped', types = 4, dmabufs?: (id: number) => Fd) {
  const world = new World();
  const memory = createSharedMemory('card', BYTES);
  let plane: GfxPlaneInfo = PLANE;
  const failures: ('ENOMEM' | 'EIO')[] = [];
  const made = world.device({
    regions: [{ flags: 3 | VFIO_REGION_INFO_FLAG_MMAP, size: BYTES, capabilities: [] }],
    onMmap: (_index, offset, bytes) => mapOf(memory, kind, offset, bytes),
  });
  Object.assign(made.ops, {
    queryGfxPlane({ flags }: GfxPlaneQuery) {
      const failure = failures.shift();
      if (failure !== undefined) throw new SysError({ call: 'QUERY', target: 'card', errno: errno[failure] });
      if ((flags & types) === 0) throw new SysError({ call: 'QUERY', target: 'card', errno: errno.EINVAL });
      return flags & VFIO_GFX_PLANE_TYPE_PROBE ? { ...plane, drmFormat: 0 } : plane;
    },
    ...(dmabufs === undefined ? {} : { getGfxDmabuf: dmabufs }),
  } satisfies Partial<RecordingDevice & { queryGfxPlane: unknown }>);
  const contained = world.contain(made);
  const file = world.open(contained, made);
  ends.push(() => {
    file[Symbol.dispose]();
    contained.close();
    world.remove(made);
    world.end();
    memory[Symbol.dispose]();
  });
  return {
    file,
    ops: made.ops,
    memory: memory.mapping.view.slice(0, BYTES),
    show: (next: Partial<GfxPlaneInfo>) => {
      plane = { ...plane, ...next };
    },
    /** What the next queries fail with. */
    fail: (failure: (typeof failures)[number], times = 1) => {
      failures.push(...Array.from({ length: times }, () => failure));
    },
    mmaps: () => made.ops.calls.filter((call) => call.startsWith('mmap')).length,
  };
}

function mapOf(memory: SharedMemory, kind: 'memfd' | 'mapped', offset: number, bytes: number): Mapping {
  if (kind === 'memfd') return Mapping.file(memory.fd, bytes, { offset });
  // Another open of the same file is not recognised as a memory file.
  using other = Fd.open(`/proc/self/fd/${memory.fd.number}`);
  return Mapping.file(other, bytes, { offset });
}

/** Both sides of the thread boundary, in one thread. */
function screensOf(displays: readonly DeviceDisplay[]) {
  const sent: PlaneCommand[] = [];
  const screens = new Screens((command) => {
    if (command.kind === 'plane') sent.push(command);
    return true;
  });
  ends.push(() => screens.end(undefined));
  const answer = () => {
    for (const { id, slot, head } of sent.splice(0)) {
      let said: Parameters<Screens['hear']>[0];
      try {
        said = { kind: 'plane', id, answer: chooseDisplay(displays, slot, head).look() };
      } catch (error) {
        said = { kind: 'plane', id, answer: encodeError(error) };
      }
      screens.hear(said);
    }
  };
  const look = (slot?: number, head?: number) => {
    const promise = screens.look(slot, ({ pixels }) => Uint8Array.from(pixels), head);
    answer();
    return promise;
  };
  return { screens, look, answer, sent };
}

test.each([
  ['memfd', 1],
  ['mapped', 5],
] as const)('video memory that is %s is read in its current state each time', async (kind, mmaps) => {
  const device = card(kind);
  const display = DeviceDisplay.find(3, 'card', device.file) as DeviceDisplay;
  const { look } = screensOf([display]);
  for (let round = 1; round <= 4; round++) {
    device.memory.fill(round, 4100, 4100 + 48);
    expect(await look()).toEqual(new Uint8Array(48).fill(round));
  }
  // A memory file is mapped once, to pass it on; other memory is copied each time.
  expect(device.mmaps()).toBe(mmaps);
  device.show({ offset: BYTES - 48 });
  device.memory.fill(9, BYTES - 48);
  expect(await look(3)).toEqual(new Uint8Array(48).fill(9));
});

test.each(['memfd', 'mapped'] as const)('a plane outside its %s memory is rejected', async (kind) => {
  const device = card(kind);
  const { look } = screensOf([DeviceDisplay.find(3, 'card', device.file) as DeviceDisplay]);
  await look();
  for (const wrong of [{ offset: BYTES - 47 }, { height: 5000 }, { stride: 15 }, { drmFormat: 1 }]) {
    device.show({ ...PLANE, ...wrong });
    await expect(look()).rejects.toThrowError(/picture on card: EINVAL/);
  }
  device.show({ ...PLANE, drmFormat: 0 });
  await expect(look()).rejects.toThrowError(/ENODATA/);
  device.show(PLANE);
  expect(await look()).toHaveLength(48);
});

test('a picture in a dma-buf is read in its current state; one dma-buf is open at a time, and closed at the end', async () => {
  const files = new Map([1, 2].map((id) => [id, createSharedMemory(`dma-buf ${id}`, 4096)] as const));
  for (const file of files.values()) ends.push(() => file[Symbol.dispose]());
  const open: Fd[] = [];
  const device = card('memfd', VFIO_GFX_PLANE_TYPE_DMABUF, (id) => {
    const fd = (files.get(id) as SharedMemory).fd.duplicate();
    expect(open.filter((other) => other.isOpen)).toEqual([]);
    open.push(fd);
    return fd;
  });
  const pixels = (id: number) => (files.get(id) as SharedMemory).mapping.view.slice(0, 4096);
  const display = DeviceDisplay.find(3, 'card', device.file) as DeviceDisplay;
  const { look } = screensOf([display]);
  for (const [dmabufId, colour] of [
    [1, 10],
    [1, 20],
    [2, 30],
    [1, 40],
  ] as const) {
    pixels(dmabufId).fill(colour);
    device.show({ dmabufId, offset: 0, regionIndex: 0 });
    expect(await look()).toEqual(new Uint8Array(48).fill(colour));
  }
  expect(open).toHaveLength(3);
  for (const [wrong, sentence] of [
    [{ offset: 4096 - 47 }, /do not fit in 4096 bytes/],
    [{ drmFormatMod: 1n }, /XR24 with modifier 0x1 is not supported, only linear/],
  ] as const) {
    device.show({ ...PLANE, dmabufId: 1, offset: 0, ...wrong });
    await expect(look()).rejects.toThrowError(sentence);
  }
  device.show({ ...PLANE, dmabufId: 1, offset: 0 });
  expect((display.still().pixels as Uint8Array)[0]).toBe(40);
  display[Symbol.dispose]();
  expect(open.filter((fd) => fd.isOpen)).toEqual([]);
});

test('a display that makes the dma-buf of a mode when it is first asked, and fails meanwhile, is asked again', async () => {
  using memory = createSharedMemory('dma-buf', 4096);
  memory.mapping.view.slice(0, 4096).fill(7);
  const device = card('memfd', VFIO_GFX_PLANE_TYPE_DMABUF, () => memory.fd.duplicate());
  device.show({ dmabufId: 1, offset: 0 });
  using display = DeviceDisplay.find(3, 'card', device.file);
  const { look } = screensOf([display as DeviceDisplay]);
  device.fail('ENOMEM');
  expect(await look()).toEqual(new Uint8Array(48).fill(7));
  device.fail('EIO');
  await expect(look()).rejects.toThrowError(/EIO/);
  device.fail('ENOMEM', 2);
  await expect(look()).rejects.toThrowError(/ENOMEM/);
});

test('a dma-buf without memory is an error, and is closed', async () => {
  const opened: Fd[] = [];
  const device = card('memfd', VFIO_GFX_PLANE_TYPE_DMABUF, () => {
    opened.push(Fd.memfd('empty'));
    return opened.at(-1) as Fd;
  });
  device.show({ dmabufId: 1, offset: 0 });
  const { look } = screensOf([DeviceDisplay.find(3, 'card', device.file) as DeviceDisplay]);
  await expect(look()).rejects.toThrowError(/mmap on memfd empty: EINVAL\n.*has no size/);
  expect(opened.map((fd) => fd.isOpen)).toEqual([false]);
});

test('a display with planes in dma-bufs but no way to get at them says so', async () => {
  const device = card('memfd', VFIO_GFX_PLANE_TYPE_DMABUF);
  device.show({ dmabufId: 1 });
  const display = DeviceDisplay.find(3, 'card', device.file);
  expect(display).toBeInstanceOf(DeviceDisplay);
  expect(DeviceDisplay.find(3, 'card', card('memfd', 0).file)).toBeUndefined();
  const { look } = screensOf([display as DeviceDisplay]);
  await expect(look()).rejects.toThrowError(/^VFIO_DEVICE_GET_GFX_DMABUF on .*: ENOTTY/);
  await expect(look(7)).rejects.toThrowError(/PCI slot 7: ENODEV\n.*displays are: card/);
});

test('after the machine has ended, the last picture can be read, and pending requests get it', async () => {
  const device = card('memfd');
  const display = DeviceDisplay.find(3, 'card', device.file) as DeviceDisplay;
  const { screens, look, sent } = screensOf([display]);
  await look();
  device.memory.fill(5, 4100, 4148);
  const asked = screens.look(undefined, ({ pixels }) => pixels[0]);
  expect(sent).toHaveLength(1);
  screens.hear({ kind: 'stills', stills: [{ slot: 3, name: 'card', answer: display.still() }] });
  device.memory.fill(0);
  screens.end(undefined);
  expect(await asked).toBe(5);
});

test('a failed machine rejects pending requests', async () => {
  const { screens } = screensOf([]);
  const asked = screens.look(undefined, () => 1);
  screens.end(new Error('no /dev/kvm'));
  await expect(asked).rejects.toThrowError('no /dev/kvm');
});

/**
 * A guest with two frames in video memory: it draws into the one that it does not show, then shows that by a register
 * access. `flips` of the following answers, it does so twice right after the answer: another frame is then drawn where the
 * picture was, and shown at the same place.
 */
function flippingGuest(flips: number) {
  const device = card('memfd');
  const display = DeviceDisplay.find(3, 'card', device.file) as DeviceDisplay;
  const FRAME = 48;
  const offsets = [0, FRAME * 2];
  let accesses = 0;
  let colour = 0;
  const show = () => {
    const offset = offsets[++accesses % 2] as number;
    device.memory.fill(++colour, offset, offset + FRAME);
    device.show({ offset });
  };
  show();
  const asked: ScreenCommand[] = [];
  let left = flips;
  const screens: Screens = new Screens((command) => {
    asked.push(command);
    if (command.kind !== 'plane') return false;
    const shown: ShownPlane = { ...(command.isCopied ? display.still() : display.look()), accesses };
    queueMicrotask(() => {
      // Half of the picture is overwritten before the main thread has copied it.
      if (left-- > 0) {
        show();
        device.memory.fill(++colour, shown.plane.offset, shown.plane.offset + FRAME / 2);
        show();
      }
      screens.hear({ kind: 'plane', id: command.id, answer: shown });
    });
    return true;
  });
  ends.push(() => screens.end(undefined));
  const copies = () => asked.filter((command) => command.kind === 'plane' && command.isCopied).length;
  return { screens, copies, asked: () => asked.length };
}

test.each([
  ['does not show another frame', 0, 2, 0],
  ['shows another frame once', 1, 4, 0],
  ['always shows another frame', 1000, 5, 1],
])('a picture is of one frame if the guest %s while it is copied', async (_what, flips, asked, copies) => {
  const guest = flippingGuest(flips);
  const { pixels } = await guest.screens.capture(3);
  expect(new Set(pixels).size).toBe(1);
  expect([guest.asked(), guest.copies()]).toEqual([asked, copies]);
});

test('without a count of accesses, and for memory that is copied anyway, the machine thread copies', async () => {
  for (const [kind, asked] of [
    ['memfd', [undefined, true]],
    ['mapped', [undefined]],
  ] as const) {
    const device = card(kind);
    device.memory.fill(7, 4100, 4148);
    const { screens, sent } = screensOf([]);
    const display = DeviceDisplay.find(3, 'card', device.file) as DeviceDisplay;
    const commands: PlaneCommand[] = [];
    const captured = screens.capture(3);
    while (sent.length > 0) {
      const [command] = sent.splice(0) as [PlaneCommand];
      commands.push(command);
      const answer = command.isCopied ? display.still() : display.look();
      screens.hear({ kind: 'plane', id: command.id, answer });
      await new Promise(setImmediate);
    }
    expect((await captured).pixels).toEqual(new Uint8Array(48).fill(7));
    expect(commands.map(({ isCopied }) => isCopied)).toEqual(asked);
  }
});

test('a capture uses the memory that it is given, if that fits', async () => {
  const guest = flippingGuest(0);
  const into = new Uint8Array(48);
  expect((await guest.screens.capture(3, into)).pixels).toBe(into);
  expect((await guest.screens.capture(3, new Uint8Array(47))).pixels).toHaveLength(48);
});

test('a capture that the device has not drawn on since is returned itself, and another one as soon as it has', async () => {
  const device = card('memfd');
  const displays = DeviceDisplay.all(3, 'card', device.file);
  const { screens, answer, sent } = screensOf(displays);
  const capture = async (since?: Look) => {
    const captured = screens.capture(3, undefined, undefined, since);
    let asked = 0;
    for (; sent.length > 0; await new Promise(setImmediate)) {
      asked += sent.length;
      answer();
    }
    return { look: await captured, asked };
  };
  device.show({ drawn: 5 });
  device.memory.fill(1);
  const { look: first } = await capture();
  device.memory.fill(2);
  expect(await capture(first)).toEqual({ look: first, asked: 1 });
  expect((await capture(first)).look).toBe(first);
  expect((await capture({ ...first, name: 'other' })).look.pixels[0], 'of another screen').toBe(2);
  device.show({ drawn: 6 });
  const { look: second } = await capture(first);
  expect(second.pixels[0]).toBe(2);
  expect(first.pixels[0], 'which is left alone').toBe(1);
  device.show({ drawn: undefined as unknown as number });
  device.memory.fill(3);
  expect((await capture(second)).look.pixels[0], 'of a device that does not tell').toBe(3);
  expect(
    (await capture({ ...second, plane: { ...second.plane, drawn: undefined as unknown as number } })).look
      .pixels[0],
  ).toBe(3);
});

test('the displays are listed by the machine, and after its end from its last pictures', async () => {
  const sent: ScreenCommand[] = [];
  const screens = new Screens((command) => {
    sent.push(command);
    return true;
  });
  const [first, second] = [screens.displays(), screens.displays()];
  const displays = [{ slot: 3, name: 'card' }];
  screens.hear({ kind: 'displays', id: sent[1]?.id as number, displays });
  expect(await second).toEqual(displays);
  const answer = encodeError(new Error('off'));
  screens.hear({ kind: 'stills', stills: [{ slot: 4, name: 'other', answer }] });
  screens.end(undefined);
  expect(await first).toEqual([{ slot: 4, name: 'other' }]);
});

/** A card with two screens, and a cursor on the first. */
function twoScreens() {
  const device = card('memfd');
  Object.assign(device.ops, {
    gfxHeads: 2,
    queryGfxPlane: ({ drmPlaneType, head = 0 }: GfxPlaneQuery) =>
      drmPlaneType === 1
        ? { ...PLANE, ...(head === 1 && SECOND) }
        : { ...CURSOR, drmFormat: head === 0 ? CURSOR.drmFormat : 0 },
  });
  return device;
}

test('a device with two screens is two displays, each with its picture', async () => {
  const device = twoScreens();
  const displays = DeviceDisplay.all(3, '00:03.0 card', device.file);
  expect(displays.map(({ name, head }) => [name, head])).toEqual([
    ['00:03.0 card', 0],
    ['00:03.0 card, screen 2', 1],
  ]);
  device.memory.fill(1, 4100, 4148);
  device.memory.fill(2, 8192, 8208);
  const { look } = screensOf(displays);
  expect(await look()).toEqual(new Uint8Array(48).fill(1));
  expect(await look(3, 1)).toEqual(new Uint8Array(16).fill(2));
  expect(await look(undefined, 1)).toEqual(new Uint8Array(16).fill(2));
  await expect(look(3, 2)).rejects.toThrowError(
    /PCI slot 3, screen 3: ENODEV\n.*card, 00:03.0 card, screen 2/,
  );
});

test('a device that knows nothing of screens has one', () => {
  expect(DeviceDisplay.all(3, 'card', card('memfd').file)).toHaveLength(1);
});

test('a capture has the cursor in it, as far as it is on the screen, and a look has not', async () => {
  const device = twoScreens();
  const displays = DeviceDisplay.all(3, 'card', device.file);
  new DataView(device.memory.buffer, device.memory.byteOffset).setUint32(8, 0xff12_3456, true);
  new DataView(device.memory.buffer, device.memory.byteOffset).setUint32(12, 0x8040_0000, true);
  device.memory.fill(0x20, 4100, 4148);
  const { screens, sent } = screensOf(displays);
  const captured = screens.capture(3);
  while (sent.length > 0) {
    const [{ id, isCopied }] = sent.splice(0) as [PlaneCommand];
    const display = displays[0] as DeviceDisplay;
    screens.hear({ kind: 'plane', id, answer: isCopied ? display.still() : display.look() });
    await new Promise(setImmediate);
  }
  const { pixels } = await captured;
  const words = new Uint32Array(pixels.buffer, pixels.byteOffset, 12);
  // The lower line of the cursor is on the upper line of the screen: an opaque pixel, and one that is half transparent.
  expect([...words.subarray(0, 4)]).toEqual([0x2020_2020, 0x2020_2020, 0x12_3456, 0x50_1010]);
  expect(device.memory.subarray(4100, 4148).every((byte) => byte === 0x20)).toBe(true);
});

test('a device that answers any query by its only plane has no cursor', () => {
  const device = card('mapped');
  expect(DeviceDisplay.find(3, 'card', device.file)?.look().cursor).toBeUndefined();
});
