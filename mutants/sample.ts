/** A random sample that a seed repeats. */

import { randomOf } from '../sys/testing/random.js';

/** `count` of `all`, each as likely as any other. */
export function sample<T>(all: readonly T[], count: number, seed: number): T[] {
  const next = randomOf(seed);
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
