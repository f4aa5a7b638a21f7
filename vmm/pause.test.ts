import { expect, test } from 'vitest';
import type { Later } from './machine-calls.js';
import { Pause } from './pause.js';

function createPause() {
  const told: (boolean | string)[] = [];
  const pause = new Pause((isPaused) => told.push(isPaused));
  const listen = (name: string, later: Pick<Later<unknown>, 'whenSettled'> | undefined) =>
    later?.whenSettled((get) => {
      try {
        get();
        told.push(`${name} done`);
      } catch {
        told.push(`${name} failed`);
      }
    });
  return { pause, told, listen };
}

test('work is done at an instruction boundary, and the vCPUs continue after it', () => {
  const { pause, told, listen } = createPause();
  listen(
    'work',
    pause.during(() => void told.push('work')),
  );
  expect([pause.isWanted, pause.isPaused, told]).toEqual([true, false, []]);
  pause.complete();
  expect([pause.isWanted, pause.isPaused, told]).toEqual([false, false, [true, 'work', false, 'work done']]);
});

test('work that fails is the error of its result, and the vCPUs continue', () => {
  const { pause, told, listen } = createPause();
  listen(
    'work',
    pause.during(() => {
      throw new RangeError('no');
    }),
  );
  pause.complete();
  expect(told).toEqual([true, false, 'work failed']);
});

test('a machine that is paused, or is to be, stays paused after the work', () => {
  const { pause, told, listen } = createPause();
  pause.during(() => told.push('work'));
  listen('owner', pause.request());
  pause.complete();
  expect(told).toEqual([true, 'owner done', 'work']);
  pause.during(() => told.push('more'));
  expect([pause.isPaused, told.at(-1)]).toEqual([true, 'more']);
  pause.end();
  expect([pause.isWanted, pause.isPaused]).toEqual([false, false]);
});

test('a resume before all have stopped cancels the pause, and not the work', () => {
  const { pause, told, listen } = createPause();
  listen('owner', pause.request());
  pause.during(() => told.push('work'));
  pause.end();
  expect([pause.isWanted, told]).toEqual([true, ['owner failed']]);
  pause.complete();
  expect(told).toEqual(['owner failed', true, 'work', false]);
});
