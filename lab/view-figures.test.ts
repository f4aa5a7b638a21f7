import { expect, test } from 'vitest';
import { viewFigures } from './view-figures.js';

const drawn = [0, 1, 2, 3].flatMap((phase) =>
  [0, 1, 2, 3, 4].map((i) => ({ phase, number: phase * 5 + i, at: phase * 10_000 + i * 500 })),
);
const drawnRates = { smallDrawn: 2.5, wholeDrawn: 2.5 };

test('a delay counts from the stamp to the first sight, and a picture seen twice counts once', () => {
  const seen = drawn.map(({ number, at, phase }) => ({ number, at: at + 10 + phase }));
  const again = seen.map(({ number, at }) => ({ number, at: at + 100 }));
  const figures = { small: 10, whole: 11, smallRate: 2.5, wholeRate: 2.5, ...drawnRates };
  expect(viewFigures(drawn, [...seen, ...again])).toEqual(figures);
});

test('pictures that were not seen lower the rate only, and a phase of which none was seen has no figures', () => {
  const seen = drawn.filter(({ number }) => number % 5 !== 1).map(({ number, at }) => ({ number, at }));
  expect(viewFigures(drawn, seen)).toEqual({ small: 0, whole: 0, smallRate: 2, wholeRate: 2, ...drawnRates });
  expect(() =>
    viewFigures(
      drawn,
      seen.filter(({ number }) => number < 15),
    ),
  ).toThrow(/0 of 5 .* phase 3/);
});
