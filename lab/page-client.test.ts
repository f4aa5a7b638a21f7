import { afterEach, expect, test } from 'vitest';
import type { DisplayName } from '../vmm/display/messages.js';
import { Canvas, FakeMachine as Pictured } from '../vmm/display/testing/page.js';
import { View } from '../vmm/display/view.js';
import type { DeviceState } from '../vmm/index.js';
import { FakeControlledMachine } from '../vmm/testing/controlled-machine.js';
import { PageClient } from './page-client.js';

/** Two screens of a device in slot 3, a keyboard and a tablet. */
class Machine extends FakeControlledMachine {
  readonly screens = [new Canvas(64, 48), new Canvas(100, 30, 12)] as const;
  override devices = [
    { slot: 4, input: 'keyboard' },
    { slot: 5, input: 'tablet' },
  ] as DeviceState[];
  displays = async (): Promise<readonly DisplayName[]> => [
    { slot: 3, name: 'first' },
    { slot: 3, name: 'second', head: 1 },
  ];
  capture = (slot?: number, into?: Uint8Array, head = 0) =>
    new Pictured(this.screens[head === 0 ? 0 : 1]).capture(slot, into);
}

let view: View | undefined;
afterEach(async () => view?.[Symbol.asyncDispose]());

async function opened(): Promise<{ machine: Machine; page: PageClient }> {
  const machine = new Machine();
  view = await View.start(machine, { port: 0 });
  return { machine, page: new PageClient(view.url) };
}

test('each screen is seen as it is, also after a part of it has changed', async () => {
  const { machine, page: client } = await opened();
  using page = client;
  for (const colour of [0x123456, 0xabcdef]) {
    for (const [head, screen] of machine.screens.entries()) screen.fill(colour + head, 5, 5, 20, 10);
    for (const [head, screen] of machine.screens.entries()) {
      const { width, height, rgba } = await page.look(3, head);
      expect([width, height]).toEqual([screen.plane.width, screen.plane.height]);
      expect(Buffer.compare(rgba, screen.rgba)).toBe(0);
    }
  }
  await expect(page.look(3, 2)).rejects.toThrow(/no picture of screen 2 in slot 3/);
});

test('a person’s keys, places and sizes reach the machine in their order, and a refusal is an error', async () => {
  const { machine, page: client } = await opened();
  using page = client;
  const person = await page.person();
  await person.press({ keys: 'Shift+Digit1', codes: [42, 2] });
  await person.point(0.5, 1);
  await person.click();
  await page.resize(3, 1, { width: 1280, height: 720 });
  expect(machine.calls).toEqual([
    ...['input 4 1:42:1 0', 'input 4 1:2:1 0', 'input 4 1:2:0 0', 'input 4 1:42:0 0'],
    ...['input 5 3:0:16384,3:1:32767 0', 'input 5 1:272:1 0', 'input 5 1:272:0 0', 'resize 3 1280x720 1'],
  ]);
  machine.failure = new Error('no');
  await expect(page.resize(3, 0, { width: 1, height: 1 })).rejects.toThrow(/^PUT devices\/3\/size: 500/);
  machine.devices = machine.devices.slice(0, 1);
  await expect(page.person()).rejects.toThrow(/no tablet/);
});
