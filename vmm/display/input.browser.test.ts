/** A person's keys and pointer at a picture of the page, in a real browser: what of them reaches the machine. */
import type { Page } from 'playwright-core';
import { expect, test } from 'vitest';
import type { InputEvent, InputKind } from '../../vfio/driver.js';
import type { DeviceState } from '../inspection.js';
import { FakeControlledMachine } from '../testing/controlled-machine.js';
import { browserForTests } from './testing/browser.js';
import { Canvas, FakeMachine as Pictured } from './testing/page.js';

const { open } = browserForTests();
const until = { timeout: 60_000 };
const [WIDTH, HEIGHT] = [400, 300];

/** A machine with a display in slot 3 and input devices in slots 4 and up. */
class FakeMachine extends FakeControlledMachine {
  readonly #pictured = new Pictured(new Canvas(WIDTH, HEIGHT));
  displays = () => this.#pictured.displays();
  capture = (slot?: number, into?: Uint8Array) => this.#pictured.capture(slot, into);

  constructor(...kinds: readonly InputKind[]) {
    super();
    this.devices = kinds.map((input, i): DeviceState => {
      const slot = 4 + i;
      return {
        ...{ name: `00:0${slot}.0 virtio-input`, slot, function: 0, device: `uuid ${i}`, description: input },
        ...{ provider: 'core', interface: 'group', group: i, counters: {}, input },
      };
    });
  }

  /** The packets so far, without `input` and the function: `4 1:30:1`. */
  get packets(): readonly string[] {
    return this.calls.map((call) => call.replace(/^input (.*) 0$/, '$1'));
  }
}

async function focused(machine: FakeMachine): Promise<{ page: Page; complaints: string[] }> {
  const { page, complaints } = await open(machine);
  await page.locator('figure .hint').waitFor(until);
  await page.locator('figure canvas').focus();
  return { page, complaints };
}

test('keys reach the keyboard by their place, pressed and released in order, and repeats are the guest’s own', async () => {
  const machine = new FakeMachine('keyboard');
  const { page } = await focused(machine);
  await page.keyboard.down('KeyA');
  await page.keyboard.down('KeyA'); // a repeat
  await page.keyboard.up('KeyA');
  await page.keyboard.press('Shift+Digit1');
  for (const key of ['Tab', 'F5', 'ArrowLeft', 'NumpadEnter']) await page.keyboard.press(key);
  const press = (...codes: number[]) => codes.flatMap((code) => [`4 1:${code}:1`, `4 1:${code}:0`]);
  const shifted = ['4 1:42:1', '4 1:2:1', '4 1:2:0', '4 1:42:0'];
  const expected = [...press(30), ...shifted, ...press(15, 63, 105, 96)];
  await expect.poll(() => machine.packets, until).toEqual(expected);
  // Tab and F5 are the guest's: the page has neither moved the focus nor been loaded anew.
  expect(await page.evaluate('document.activeElement.tagName')).toBe('CANVAS');
});

test('Ctrl+Alt+G leaves the picture, and what is pressed is released', async () => {
  const machine = new FakeMachine('keyboard');
  const { page } = await focused(machine);
  for (const key of ['ControlLeft', 'AltLeft', 'KeyG']) await page.keyboard.down(key);
  const expected = ['4 1:29:1', '4 1:56:1', '4 1:29:0', '4 1:56:0'];
  await expect.poll(() => machine.packets, until).toEqual(expected);
  for (const key of ['KeyG', 'AltLeft', 'ControlLeft']) await page.keyboard.up(key);
  expect(await page.evaluate('document.activeElement.tagName')).toBe('BODY');
  await page.keyboard.press('KeyB');
  expect(machine.packets).toEqual(expected);
});

test('the pointer reaches a tablet by its place in the picture, with buttons and wheels', async () => {
  const machine = new FakeMachine('keyboard', 'tablet', 'mouse');
  const { page } = await focused(machine);
  const box = await page.locator('figure canvas').boundingBox();
  if (box === null) throw new Error('no picture');
  const at = async (x: number, y: number) => page.mouse.move(box.x + x * box.width, box.y + y * box.height);
  await at(0.25, 0.75);
  await page.mouse.down({ button: 'left' });
  await page.mouse.up({ button: 'left' });
  await page.mouse.down({ button: 'right' });
  await page.mouse.up({ button: 'right' });
  await page.mouse.wheel(0, 120);
  await page.mouse.wheel(-50, 0);
  const clicks = ['5 1:272:1', '5 1:272:0', '5 1:273:1', '5 1:273:0', '5 2:8:-1', '5 2:6:-1'];
  const isMove = (packet: string) => packet.startsWith('5 3:0:');
  await expect.poll(() => machine.packets.filter((packet) => !isMove(packet)), until).toEqual(clicks);
  const [, x = 0, y = 0] =
    /^5 3:0:(\d+),3:1:(\d+)$/.exec(machine.packets.find(isMove) ?? '')?.map(Number) ?? [];
  expect(Math.abs(x - 32767 * 0.25)).toBeLessThan(32767 / WIDTH);
  expect(Math.abs(y - 32767 * 0.75)).toBeLessThan(32767 / HEIGHT);
});

test('without a tablet, the pointer’s movements reach the mouse', async () => {
  const machine = new FakeMachine('mouse');
  const { page } = await focused(machine);
  const box = await page.locator('figure canvas').boundingBox();
  if (box === null) throw new Error('no picture');
  await page.mouse.move(box.x + 10, box.y + 10);
  await page.mouse.move(box.x + 30, box.y + 5, { steps: 4 });
  const moved = () => {
    const sum = { x: 0, y: 0 };
    for (const packet of machine.packets)
      for (const [, code, value] of packet.matchAll(/2:([01]):(-?\d+)/g))
        sum[code === '0' ? 'x' : 'y'] += Number(value);
    return sum;
  };
  const scale = WIDTH / box.width;
  await expect.poll(() => Math.abs(moved().x) >= Math.floor(15 * scale), until).toBe(true);
});

test('a refusal is shown at the picture, and goes when events are taken again', async () => {
  const machine = new FakeMachine('keyboard');
  const { page, complaints } = await focused(machine);
  machine.failure = new Error('the device is gone');
  await page.keyboard.press('KeyA');
  const hint = page.locator('figure .hint [role=alert]');
  await expect.poll(() => hint.textContent(), until).toBe('the guest gets no input: the device is gone');
  machine.failure = undefined;
  await page.keyboard.press('KeyA');
  await expect.poll(() => hint.textContent(), until).toBe('');
  expect(complaints.splice(0).every((text) => text.includes('500'))).toBe(true); // the browser's
});

test('served devices take keys and pointer, too', async () => {
  const calls: string[] = [];
  const server = Object.assign(new Pictured(new Canvas(WIDTH, HEIGHT)), {
    inputs: async () =>
      [
        { slot: 1, input: 'keyboard' },
        { slot: 2, input: 'tablet' },
      ] as const,
    input: async (events: readonly InputEvent[], slot: number) => {
      calls.push(`${slot} ${events.map(({ type, code, value }) => `${type}:${code}:${value}`).join()}`);
    },
    resize: async () => {},
  });
  const { page } = await open(server);
  await page.locator('figure .hint').waitFor(until);
  await page.locator('figure canvas').focus();
  await page.keyboard.press('KeyA');
  const box = await page.locator('figure canvas').boundingBox();
  if (box === null) throw new Error('no picture');
  await page.mouse.click(box.x + 10, box.y + 10);
  const isMove = (call: string) => call.startsWith('2 3:0:');
  const expected = ['1 1:30:1', '1 1:30:0', '2 1:272:1', '2 1:272:0'];
  await expect.poll(() => calls.filter((call) => !isMove(call)), until).toEqual(expected);
  expect(calls.some(isMove)).toBe(true);
});

test('a machine without input devices has a picture that takes no focus', async () => {
  const { page } = await open(new FakeMachine());
  const canvas = page.locator('figure canvas');
  await canvas.waitFor(until);
  expect(await canvas.getAttribute('tabindex')).toBeNull();
  expect(await page.locator('figure .hint').count()).toBe(0);
});
