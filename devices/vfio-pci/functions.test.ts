import { expect, test } from 'vitest';
import { Scope } from '../../sys/scope.js';
import { trace } from '../../sys/trace.js';
import { PCI_COMMAND, PCI_VENDOR_ID } from '../pci/pci-regs.js';
import { fakeEnvironment, recordTrace } from '../testing/fake-ports.js';
import type { ScriptedDevice } from '../testing/scripted-device.js';
import { VfioPciFunctions } from './functions.js';
import { createScriptedNic } from './scripted-nic.js';

function machine(scope: Scope, ...names: string[]) {
  const functions = new VfioPciFunctions(fakeEnvironment());
  const cards = names.map((name) => {
    const file = scope.own(createScriptedNic());
    const pci = scope.own(functions.open(name, file, {}));
    file.calls.length = 0;
    return { file, pci };
  });
  return { functions, cards };
}

const resets = ({ file }: { file: ScriptedDevice }): number =>
  file.calls.filter(({ call }) => call === 'reset').length;
const use = ({ pci }: { pci: { configWrite(offset: number, bytes: number, value: number): void } }): void =>
  pci.configWrite(PCI_COMMAND, 2, 6);

test('a function is the device’s: its name, reads and writes', () => {
  using scope = new Scope();
  const { cards } = machine(scope, 'a');
  const [card] = cards as [(typeof cards)[0]];
  expect(card.pci.name).toBe('a');
  expect(card.pci.configRead(PCI_VENDOR_ID, 4)).toBe(0x10d3_8086);
  use(card);
  expect([card.pci.configRead(PCI_COMMAND, 1), card.file.config[PCI_COMMAND]]).toEqual([6, 6]);
});

test('a machine reset stops every device before it resets the first, and resets each once', () => {
  using scope = new Scope();
  const { functions, cards } = machine(scope, 'a', 'b');
  for (const card of cards) use(card);
  const commands: unknown[] = [];
  for (const { file } of cards) {
    const reset = file.reset.bind(file);
    file.reset = () => {
      commands.push(cards.map((card) => card.file.config[PCI_COMMAND]));
      reset();
    };
  }
  functions.reset();
  expect(commands).toEqual([
    [0, 0],
    [0, 0],
  ]);
  functions.reset();
  expect(cards.map(resets)).toEqual([1, 1]);
});

test('a device that fails does not keep the others from their reset, and the failure is noted under its name', () => {
  using scope = new Scope();
  const { functions, cards } = machine(scope, 'a', 'b');
  for (const card of cards) use(card);
  cards[0]?.file.failures.set('reset', 'EIO');
  using notes = recordTrace(trace.vfio);
  functions.reset();
  expect(cards.map(resets)).toEqual([1, 1]);
  expect(notes.events).toContainEqual({
    device: 'a',
    what: 'reset',
    text: expect.stringMatching(
      /^reset on scripted device: EIO\n {2}hint: it still has the state of its last user/,
    ),
  });
  cards[0]?.file.failures.clear();
});

test('a function that is disposed is reset for the last time, and no longer with the machine', () => {
  using scope = new Scope();
  const { functions, cards } = machine(scope, 'a', 'b');
  for (const card of cards) use(card);
  cards[0]?.pci[Symbol.dispose]();
  expect(cards.map(resets)).toEqual([1, 0]);
  const calls = cards[0]?.file.calls.length;
  functions.reset();
  expect(cards[0]?.file.calls.length).toBe(calls);
  expect(cards.map(resets)).toEqual([1, 1]);
});

test('after the last reset, interrupts stay off; after any other, the pin is wired', () => {
  using scope = new Scope();
  const functions = new VfioPciFunctions(fakeEnvironment());
  const file = scope.own(createScriptedNic());
  const pci = scope.own(functions.open('a', file, { routeIntx: () => 11 }));
  use({ pci });
  functions.reset();
  expect(file.wired()[0]).toEqual([0]);
  functions.reset(true);
  expect(file.wired()[0]).toBeUndefined();
});
