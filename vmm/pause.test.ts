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

test('a machine that is held stays at rest whoever asks it to continue, until it is released', () => {
  const { pause, told, listen } = createPause();
  listen('move', pause.hold(() => told.push('work')) as never);
  pause.complete();
  expect(told).toEqual([true, 'work', 'move done']);
  pause.end();
  expect([pause.isWanted, pause.isPaused]).toEqual([true, true]);
  pause.release();
  expect([pause.isWanted, pause.isPaused, told.at(-1)]).toEqual([false, false, false]);
  pause.release();
});

test('a paused machine that was held stays paused after the release, and is not held if the work fails', () => {
  const { pause, told, listen } = createPause();
  listen('owner', pause.request());
  pause.complete();
  pause.hold(() => {});
  pause.release();
  expect([pause.isAsked, pause.isPaused]).toEqual([true, true]);
  pause.end();
  const failing = () => {
    throw new Error('no');
  };
  listen('move', pause.hold(failing) as never);
  pause.complete();
  expect([pause.isWanted, told.at(-2), told.at(-1)]).toEqual([false, false, 'move failed']);
});
