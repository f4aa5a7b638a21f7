/** What a mistyped word was meant to be. */

/** A third of the letters may be wrong, at least one and at most three. */
const mostEdits = (word: string): number => Math.min(3, Math.max(1, Math.floor(word.length / 3)));

/** The candidate that is nearest to `word`, whatever its case; undefined if all are too different. */
export function nearest(word: string, candidates: readonly string[]): string | undefined {
  let best: string | undefined;
  let least = mostEdits(word) + 1;
  for (const candidate of candidates) {
    if (Math.abs(candidate.length - word.length) >= least) continue; // a long word takes no time
    const distance = editDistance(word.toLowerCase(), candidate.toLowerCase());
    // What shares nothing with a short word is no suggestion: `x` for `h`.
    if (distance >= least || distance >= candidate.length) continue;
    [best, least] = [candidate, distance];
  }
  return best;
}

/** `; did you mean X?`, or nothing. */
export function didYouMean(word: string, candidates: readonly string[]): string {
  const found = nearest(word, candidates);
  return found === undefined ? '' : `; did you mean ${found}?`;
}

/** What follows the name of an unknown word: `; did you mean B? Expected A, B`, or `: expected A, B`. @param shown lists `known` */
export function expected(word: string, known: readonly string[], shown: string): string {
  const meant = didYouMean(word, known);
  return `${meant === '' ? ': expected' : `${meant} Expected`} ${shown}`;
}

/** Letters inserted, dropped, replaced, or swapped with their neighbour (optimal string alignment). */
export function editDistance(from: string, to: string): number {
  let before: number[] = [];
  let last = Array.from({ length: to.length + 1 }, (_, i) => i);
  for (let i = 1; i <= from.length; i++) {
    const row = [i];
    for (let j = 1; j <= to.length; j++) {
      const isSame = from[i - 1] === to[j - 1];
      const edits = [
        (last[j] as number) + 1,
        (row[j - 1] as number) + 1,
        (last[j - 1] as number) + (isSame ? 0 : 1),
      ];
      const isSwap = i > 1 && j > 1 && from[i - 1] === to[j - 2] && from[i - 2] === to[j - 1];
      if (isSwap) edits.push((before[j - 2] as number) + 1);
      row.push(Math.min(...edits));
    }
    [before, last] = [last, row];
  }
  return last[to.length] as number;
}
