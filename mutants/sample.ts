/** A random sample that a seed repeats. */

/** xorshift32 behind a multiplication: numbers from 0 to below 1. */
function random(seed: number): () => number {
  let state = Math.imul(seed, 0x9e37_79b1) | 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 0x1_0000_0000;
  };
}

/** `count` of `all`, each as likely as any other. */
export function sample<T>(all: readonly T[], count: number, seed: number): T[] {
  const next = random(seed);
  const rest = [...all];
  for (let at = 0; at < Math.min(count, rest.length); at += 1) {
    const other = at + Math.floor(next() * (rest.length - at));
    [rest[at], rest[other]] = [rest[other] as T, rest[at] as T];
  }
  return rest.slice(0, count);
}

/** Wilson's interval at 95 %: where the share of `hits` in all lies, by a sample of `of`. */
export function interval(hits: number, of: number): readonly [number, number] {
  const z = 1.96;
  const share = hits / of;
  const middle = share + (z * z) / (2 * of);
  const half = z * Math.sqrt((share * (1 - share)) / of + (z * z) / (4 * of * of));
  return [(middle - half) / (1 + (z * z) / of), (middle + half) / (1 + (z * z) / of)];
}
