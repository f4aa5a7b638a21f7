/** A median with an interval that assumes nothing about how the values are distributed. */
import { median } from './measure.js';

export interface Interval {
  readonly median: number;
  readonly low: number;
  readonly high: number;
  /** How likely it is that such an interval has the true median in it. */
  readonly confidence: number;
}

const WANTED = 0.95;

/**
 * The narrowest pair of the sorted values, symmetrically chosen, between which the true median lies with at least 95 %: each
 * value is above it with 1/2, as a coin. Of fewer than 6 values, the whole range, with what confidence that has.
 * @throws RangeError without values
 */
export function orderInterval(values: readonly number[]): Interval {
  if (values.length === 0) throw new RangeError('an interval of no values');
  const sorted = [...values].sort((a, b) => a - b);
  const n = sorted.length;
  let outside = 2 * 0.5 ** n; // all above, or all below
  let cut = 0;
  for (let ways = n, more = outside + 2 * ways * 0.5 ** n; 1 - more >= WANTED; ) {
    outside = more;
    cut++;
    ways = (ways * (n - cut)) / (cut + 1);
    more = outside + 2 * ways * 0.5 ** n;
  }
  const [low, high] = [sorted[cut] as number, sorted[n - 1 - cut] as number];
  return { median: median(sorted), low, high, confidence: 1 - outside };
}

export const ratioText = ({ median: middle, low, high, confidence }: Interval): string =>
  `ratio ${middle.toFixed(3)}, ${(confidence * 100).toFixed(0)} % interval ${low.toFixed(3)} to ${high.toFixed(3)}`;
