import { expect, test } from 'vitest';
import { CoreCards } from './testing/core-cards.js';

test('a hot reset of a card resets all cards of its board, and no other one', () => {
  using cards = new CoreCards();
  const [one, two, other] = [{ board: 'a' }, { board: 'a' }, { board: 'b' }].map((options) =>
    cards.open(options),
  );
  for (const card of [one, two, other]) if (card !== undefined) card.scratch = 7;
  const names = one?.file.getPciHotResetInfo?.().devices.map(({ address }) => address);
  expect(names).toEqual([one?.device.name, two?.device.name]);
  expect(() => one?.file.pciHotReset?.([one.group])).toThrowError(/EINVAL|EPERM/);
  expect([one?.scratch, two?.scratch]).toEqual([7, 7]);
  one?.file.pciHotReset?.([one.group, two?.group].filter((group) => group !== undefined));
  expect([one?.scratch, two?.scratch, other?.scratch]).toEqual([0, 0, 7]);
});

test('a card that fails to reset keeps its whole board from a reset, and the error names it', () => {
  using cards = new CoreCards();
  const one = cards.open({ board: 'a' });
  const two = cards.open({ board: 'a', fault: 'reset-fails' });
  one.scratch = 7;
  const reset = () => one.file.pciHotReset?.([one.group, two.group]);
  expect(reset).toThrowError(new RegExp(`EIO[^]*${two.device.name}: the card has the fault reset-fails`));
  expect(one.scratch).toBe(7);
});

test('a card without a board has no hot reset', () => {
  using cards = new CoreCards();
  const one = cards.open({});
  expect(() => one.file.getPciHotResetInfo?.()).toThrowError(/ENOTTY/);
});
