import { expect, test } from 'vitest';
import { Incoming } from './incoming.js';

const received = () => Incoming.of({}, {});

test('a piece of a device that is waited for is taken once the machine says so', async () => {
  const incoming = received();
  for (let i = 0; i < 3; i++) {
    const { taken } = incoming;
    let isTaken = false;
    void taken.then(() => {
      isTaken = true;
    });
    await Promise.resolve();
    expect(isTaken).toBe(false);
    incoming.hear({ kind: 'taken' });
    await taken;
  }
});

test('the end of the machine ends the wait for a piece that it has, and for each later one', async () => {
  const incoming = received();
  const waiting = expect(incoming.taken).rejects.toThrowError('the machine has ended');
  incoming.fail(new Error('the machine has ended'));
  await waiting;
  await expect(incoming.taken).rejects.toThrowError('the machine has ended');
});
