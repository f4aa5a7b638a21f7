/** What a viewer has seen of the pictures that a guest drew. */
import { median } from './meter.js';
import type { Drawn } from './view-guest.js';

/** When a viewer saw which number, in milliseconds of the same clock. */
export interface Seen {
  readonly number: number;
  readonly at: number;
}

export const viewRows = {
  small: 'delay, 64 x 64 changing 10 times a second, ms',
  whole: 'delay, 1024 x 768 changing 10 times a second, ms',
  smallRate: 'pictures per second, 64 x 64 changing at will',
  wholeRate: 'pictures per second, 1024 x 768 changing at will',
  smallDrawn: 'those that the guest drew, 64 x 64',
  wholeDrawn: 'those that the guest drew, 1024 x 768',
} as const;

export type ViewFigures = Record<keyof typeof viewRows, number>;

/** Medians of the delay of phases 0 and 1, and different pictures per second of 2 and 3. @throws Error if a phase was not seen */
export function viewFigures(drawn: readonly Drawn[], seen: readonly Seen[]): ViewFigures {
  const first = new Map<number, number>();
  for (const { number, at } of seen) if (!first.has(number)) first.set(number, at);
  const of = (phase: number) => {
    const all = drawn.filter((each) => each.phase === phase);
    const found = all.flatMap(({ number, at }) => {
      const sight = first.get(number);
      return sight === undefined ? [] : [{ at, sight }];
    });
    const [begin, end] = [all[0], all.at(-1)];
    if (begin === undefined || end === undefined || found.length === 0)
      throw new Error(`${found.length} of ${all.length} pictures of phase ${phase} were seen`);
    return { found, all, seconds: (end.at - begin.at) / 1000 };
  };
  const delay = (phase: number) => median(of(phase).found.map(({ at, sight }) => sight - at));
  const rate = (phase: number) => of(phase).found.length / of(phase).seconds;
  const drawnRate = (phase: number) => of(phase).all.length / of(phase).seconds;
  return {
    small: delay(0),
    whole: delay(1),
    smallRate: rate(2),
    wholeRate: rate(3),
    smallDrawn: drawnRate(2),
    wholeDrawn: drawnRate(3),
  };
}
