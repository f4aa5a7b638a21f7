/** What a benchmark finds: as text while it runs, and as data for `--json`. */
import { microseconds, type Percentiles } from './measure.js';

/** One figure of a benchmark. */
export interface Figure {
  readonly benchmark: string;
  /** What was measured. */
  readonly name: string;
  readonly unit: string;
  /** Median of the rounds. */
  readonly value: number;
  /** Of single operations, all rounds together. */
  readonly each?: Percentiles;
  /** The value divided by another figure's of the same run. */
  readonly ratio?: {
    readonly to: string;
    readonly value: number;
    /** Holds the true ratio with at least 95 %. */
    readonly interval?: readonly [number, number];
  };
}

/** Collects a run's figures. Lines are printed at once. */
export class Report {
  readonly figures: Figure[] = [];
  readonly #print: (line: string) => void;

  constructor(print: (line: string) => void) {
    this.#print = print;
  }

  line(text: string): void {
    this.#print(text);
  }

  add(figure: Figure): void {
    this.figures.push(figure);
  }
}

export const percentileText = ({ p50, p99, p999 }: Percentiles): string =>
  `p50 ${microseconds(p50)}, p99 ${microseconds(p99)}, p99.9 ${microseconds(p999)}`;
