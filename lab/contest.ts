import type { GuestL1 } from './guest-lab.js';
import { median } from './meter.js';

/** Values by row. */
export type Figures<Row extends string = string> = Readonly<Record<Row, number>>;

/** A VMM in one configuration. */
export interface Side {
  readonly name: string;
  /**
   * One sample.
   * @param lab starts L1, or gives the one that runs; a side that needs none is measured on this machine
   * @throws Error if the guest did not do what it should
   */
  measure(lab: () => Promise<GuestL1>): Promise<Figures>;
}

/** Rows of `compare` that are measured together: each side in turn, in one L1 if they need one. */
export interface Contest {
  /** What --rows calls it. */
  readonly name: string;
  readonly sides: readonly Side[];
  /** Names of sides, of which the first is divided by the second. */
  readonly pairs: readonly (readonly [ours: string, theirs: string])[];
  /** Titles, with their units, of the figures. */
  readonly rows: Readonly<Record<string, string>>;
}

/** The samples of a side, by round. */
export type Samples = ReadonlyMap<number, Figures>;

/** One figure of two sides. Ratios are those of the same round. */
export interface Comparison {
  readonly ours: number;
  readonly theirs: number;
  readonly ratio: number;
  readonly lowest: number;
  readonly highest: number;
  readonly pairs: number;
}

/** Medians, and the extremes of the ratios. A round without a sample of both is left out. */
export function comparison(row: string, ours: Samples, theirs: Samples): Comparison {
  const value = (figures: Figures | undefined) => figures?.[row] ?? Number.NaN;
  const pairs = [...ours.keys()]
    .filter((round) => theirs.has(round))
    .map((round) => [value(ours.get(round)), value(theirs.get(round))] as const);
  const ratios = pairs.map(([our, their]) => our / their);
  return {
    ours: median(pairs.map(([our]) => our)),
    theirs: median(pairs.map(([, their]) => their)),
    ratio: median(ratios),
    lowest: Math.min(...ratios),
    highest: Math.max(...ratios),
    pairs: pairs.length,
  };
}
