import { median } from '../bench/measure.js';

export { median };

/** What `meter` prints in L2. @see lab/l2/meter.c */
export interface Reading {
  /** What was measured, in the words of the command: `down 67108864`. */
  readonly what: string;
  /** Bytes, or round trips. */
  readonly amount: number;
  readonly us: number;
  /** Exits to user space meanwhile; 0 for a disk. */
  readonly exits: number;
}

export function parseReadings(output: string): readonly Reading[] {
  const lines = output.matchAll(/L2-METER (.*) (\d+) in (\d+) us, (\d+) exits/g);
  return [...lines].map(([, what = '', amount, us, exits]) => ({
    what,
    amount: Number(amount),
    us: Number(us),
    exits: Number(exits),
  }));
}

/**
 * The median of a value of all readings whose command begins so.
 * @throws Error if there is none
 */
export function medianOf(
  readings: readonly Reading[],
  what: string,
  value: (reading: Reading) => number,
): number {
  const values = readings.filter((reading) => reading.what.startsWith(what)).map(value);
  if (values.length === 0) throw new Error(`L2 has not measured '${what}'`);
  return median(values);
}

export const mebibytesPerSecond = ({ amount, us }: Reading): number => amount / 2 ** 20 / (us / 1e6);
export const perSecond = ({ amount, us }: Reading): number => amount / (us / 1e6);
