import { expect, test } from 'vitest';
import { ExpectedFrames } from './expected-frames.js';

/** Serves signals, each with so many frames; what is left is there at the next one. Returns reads that found nothing, and signals. */
function serve(expected: ExpectedFrames, bursts: readonly number[]): { empty: number; signals: number } {
  let [empty, signals] = [0, 0];
  for (const burst of bursts) {
    let waiting = burst;
    while (waiting > 0) {
      signals++;
      expected.signalled();
      while (expected.hasMore) {
        expected.read(waiting > 0);
        if (waiting > 0) waiting--;
        else empty++;
      }
    }
  }
  return { empty, signals };
}

const times = (count: number, burst: number): number[] => Array.from({ length: count }, () => burst);

test('what is expected when the port is readable ends with the driver', () => {
  const expected = new ExpectedFrames(64);
  expect(expected.hasMore).toBe(false);
  expected.signalled();
  expect(expected.hasMore).toBe(true);
  expected.forget();
  expect(expected.hasMore).toBe(false);
});

/** Turns without a signal, at which the port has a frame or not. Returns how many of them read. */
function turns(expected: ExpectedFrames, count: number, hasFrame: boolean): number {
  let reads = 0;
  for (let i = 0; i < count; i++) {
    expected.turn();
    if (!expected.hasMore) continue;
    reads++;
    while (expected.hasMore) expected.read(hasFrame);
  }
  return reads;
}

test('a port that was not readable is seldom read in vain, and at each turn once it has frames', () => {
  const expected = new ExpectedFrames(64);
  expect(turns(expected, 1000, false)).toBeLessThan(25);
  expect(turns(expected, 128, true)).toBeGreaterThan(60);
  expect(turns(expected, 100, true)).toBe(100);
});

test('frames that come one at a time are seldom followed by a read in vain', () => {
  const { empty, signals } = serve(new ExpectedFrames(64), times(1000, 1));
  expect(signals).toBe(1000);
  expect(empty).toBeLessThan(25);
});

test('a stream is read in turns of the most frames, whatever came before it', () => {
  const expected = new ExpectedFrames(64);
  serve(expected, times(1000, 1));
  const { empty, signals } = serve(expected, [64 * 200]);
  expect(signals).toBeLessThan(200 + 64 + 64);
  expect(empty).toBeLessThan(2);
});

test('bursts of the same size are read whole, and seldom in vain', () => {
  const expected = new ExpectedFrames(64);
  serve(expected, times(20, 32));
  const { empty, signals } = serve(expected, times(640, 32));
  expect(signals).toBeLessThan(660);
  expect(empty).toBeLessThan(25);
});
