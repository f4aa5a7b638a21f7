import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect, test } from 'vitest';
import { PinnedBytes, withAddress } from './libc.js';
import { MemoryView } from './mapping.js';

setFlagsFromString('--expose-gc');
setFlagsFromString('--allow-natives-syntax');
const gc = runInNewContext('gc') as () => void;
const natives = new Function(
  'f',
  'isLast',
  'if (isLast) %OptimizeFunctionOnNextCall(f); else %PrepareFunctionForOptimization(f);',
) as (f: unknown, isLast: boolean) => void;

/** Calls `f` until it is optimized, which is when V8 no longer keeps what the rest of a function does not use. */
function optimize(f: () => void): void {
  natives(f, false);
  for (let i = 0; i < 5; i++) f();
  natives(f, true);
  f();
}

const BYTES = 64 << 20;
const SLACK = 1 << 20;
/** Buffers are freed beside the collection that found them dead; the next one waits for that. */
const buffers = (): number => {
  gc();
  gc();
  return process.memoryUsage().arrayBuffers;
};

test('a buffer lives while its address is in use, though nothing else holds it', () => {
  const before = buffers();
  let during = 0;
  const look = () => {
    during = buffers() - before;
  };
  const hold = withAddress; // a local name, so that V8 can inline it
  const use = () => {
    hold(new Uint8Array(BYTES), look);
  };
  natives(hold, false);
  optimize(use);
  expect(during).toBeGreaterThan(BYTES - SLACK);
  expect(buffers() - before).toBeLessThan(SLACK);
});

test('the address of a small array is that of its bytes, whatever is collected', () => {
  const small = Uint8Array.of(1, 2, 3);
  withAddress(small, (address) => {
    gc();
    expect([...new MemoryView(address, 3).slice(0, 3)]).toEqual([1, 2, 3]);
    new MemoryView(address, 3).slice(0, 3)[1] = 9;
  });
  expect([...small]).toEqual([1, 9, 3]);
});

test('pinned bytes live until they are disposed, and have no address from then on', () => {
  const before = buffers();
  const make = (): { address: number } => {
    const { address } = new PinnedBytes(BYTES);
    return { address };
  };
  let made = make();
  const again = () => {
    made = make();
  };
  again();
  expect(buffers() - before).toBeGreaterThan(2 * BYTES - SLACK);
  expect(new MemoryView(made.address, 1).slice(0, 1)[0]).toBe(0);
  const pinned = new PinnedBytes(4096);
  pinned[Symbol.dispose]();
  expect(() => pinned.address).toThrowError(RangeError);
  expect(pinned.bytes).toHaveLength(4096);
});
