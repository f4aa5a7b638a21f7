import { PNG } from 'pngjs';
import { expect, test } from 'vitest';
import { guestPicture } from '../guest-picture.js';
import type { Phase, RunReport } from '../protocol.js';
import { NIC } from '../testing/machines.js';
import { VirtualMachine } from '../virtual-machine.js';

const DRAW = 0x28;
const DRAWN = 0x2c;

interface Drawing {
  readonly vm: VirtualMachine;
  readonly serial: () => string;
  /** Resolves when the guest writes the progress code. */
  reached(code: number): Promise<Phase>;
}

function start(devices: Parameters<typeof VirtualMachine.start>[0]['devices'], cmdline = ''): Drawing {
  let serial = '';
  const waiting = new Map<number, (phase: Phase) => void>();
  const vm = VirtualMachine.start(
    { devices: devices ?? [], cmdline },
    {
      serial: (bytes) => {
        serial += Buffer.from(bytes).toString('latin1');
      },
      phase: (phase) => waiting.get(phase.code)?.(phase),
    },
  );
  return {
    vm,
    serial: () => serial,
    reached: (code) => new Promise((resolve) => waiting.set(code, resolve)),
  };
}

const read = (png: Uint8Array) => PNG.sync.read(Buffer.from(png));

/** Checks that a PNG is the guest's picture, pixel for pixel. */
function expectPicture(png: Uint8Array, width: number, height: number): void {
  const picture = read(png);
  expect([picture.width, picture.height]).toEqual([width, height]);
  expect(Buffer.compare(picture.data, guestPicture(width, height).rgba)).toBe(0);
}

function drawingExits({ phases }: RunReport) {
  const at = (code: number) => phases.find((phase) => phase.code === code) as Phase;
  const [begin, end] = [at(DRAW), at(DRAWN)];
  return {
    mmio: (end.exits.mmio ?? 0) - (begin.exits.mmio ?? 0),
    io: (end.exits.io ?? 0) - (begin.exits.io ?? 0),
  };
}

test('the guest draws without an exit in the mode of the EDID, and the last picture is kept', async () => {
  await using drawing = startDisposable([{ address: 'vgpu-small', options: { xres: '640', yres: '400' } }]);
  const { vm, serial } = drawing;
  const report = await vm.finished;
  expect(serial()).toMatch(/640 x 400 pixels of 32 bits\ndisplay: drawn and read back in \d+ us, noise 0x/);
  expect(serial()).toMatch(/verdict: ok/);
  expect(report.outcome).toEqual({ kind: 'verdict', status: 0 });
  expect(drawingExits(report)).toEqual({ mmio: 0, io: 1 }); // the progress code at the end
  expectPicture(await vm.screenshot(), 640, 400);
  expectPicture(await vm.screenshot(3), 640, 400);
  await expect(vm.screenshot(4)).rejects.toThrowError(/PCI slot 4: ENODEV/);
});

test('an odd mode set on the command line is drawn and captured', async () => {
  await using drawing = startDisposable([{ address: 'vgpu-small' }], 'xres=333 yres=77');
  await drawing.vm.finished;
  expectPicture(await drawing.vm.screenshot(), 333, 77);
});

test('a picture can be captured at any time while the guest draws, with two displays and a NIC', async () => {
  const devices = [
    { address: 'vgpu-small', options: { xres: '320', yres: '200' } },
    NIC,
    { address: 'vgpu-medium', slot: 9 },
  ];
  await using drawing = startDisposable(devices, 'frames=20 pings=1');
  const { vm, serial, reached } = drawing;
  const early = vm.screenshot().catch((error: Error) => error); // requested before the machine exists
  await reached(DRAW);
  const seen = new Set<string>();
  let isOver = false;
  void vm.finished.then(() => {
    isOver = true;
  });
  let last: Uint8Array = new Uint8Array();
  while (!isOver) {
    last = await vm.screenshot(3);
    const { width, height, data } = read(last);
    expect([width, height]).toEqual([320, 200]);
    seen.add(data.toString('base64'));
  }
  expect(seen.size).toBeGreaterThan(3);
  const report = await vm.finished;
  expect(report.outcome).toEqual({ kind: 'verdict', status: 0 });
  expect(serial()).toMatch(/1\/1 replies/);
  expectPicture(await vm.screenshot(), 320, 200);
  await expect(vm.screenshot(9)).rejects.toThrowError(/00:09\.0 vgpu-medium: ENODATA\n.*shows nothing/);
  await expect(vm.screenshot(4)).rejects.toThrowError(/ENODEV/);
  const first = await early;
  if (first instanceof Error) expect(first.message).toMatch(/00:03\.0 vgpu-small: ENODATA/);
});

test('two vCPU threads or one: the picture is the same', async () => {
  let isDrawn = false;
  await using vm = VirtualMachine.start(
    { vcpus: 2, devices: [{ address: 'vgpu-small', options: { xres: '320', yres: '200' } }] },
    { phase: ({ code }) => (isDrawn ||= code === DRAWN) },
  );
  await vm.finished;
  expect(isDrawn).toBe(true);
  expectPicture(await vm.screenshot(), 320, 200);
});

test.each([1, 2])(
  'a picture is of one frame, however fast the guest draws and shows the next, %i vCPU',
  async (vcpus) => {
    const display = { address: 'vgpu-small', options: { xres: '320', yres: '200' } };
    await using vm = VirtualMachine.start({ vcpus, cmdline: 'flips=1000000', devices: [display] });
    const colours = new Set<number>();
    while (colours.size < 50 && vm.state !== 'ended') {
      const { pixels } = await vm.capture().catch(() => ({ pixels: new Uint8Array(0) }));
      const words = new Uint32Array(pixels.buffer, pixels.byteOffset, pixels.length >> 2);
      const ofRows = new Set(words.filter((_, i) => i % 320 === 0));
      const [colour = 0] = words;
      // Before its frames of one colour each, the guest draws a picture into what is shown, which was black.
      if (ofRows.size === 1 && colour !== 0) colours.add(colour);
      else expect(`${colours.size} whole frames, then one of ${ofRows.size} colours`).toMatch(/^0 whole/);
    }
    expect(colours.size).toBe(50);
  },
  120_000,
);

test('without a display there is no picture, and the error names a device that has one', async () => {
  await using vm = VirtualMachine.start({ devices: [], cmdline: 'halt-test' });
  await expect(vm.screenshot()).rejects.toThrowError(/ENODEV/);
  await vm.finished;
  await expect(vm.screenshot()).rejects.toThrowError(/the machine has ended, and no device/);
});

test('a mode that the card cannot show ends the guest with its own verdict', async () => {
  await using drawing = startDisposable([{ address: 'vgpu-small' }], 'xres=4095 yres=4095');
  const report = await drawing.vm.finished;
  expect(report.outcome).toEqual({ kind: 'verdict', status: 9 });
  expect(drawing.serial()).toMatch(/verdict: failed \(the mode does not fit\)/);
});

function startDisposable(...parameters: Parameters<typeof start>): Drawing & AsyncDisposable {
  const drawing = start(...parameters);
  return { ...drawing, [Symbol.asyncDispose]: () => drawing.vm[Symbol.asyncDispose]() };
}
