/**
 * A source that holds all its mutants at once, each behind a switch: one build serves them all, in threads and programs
 * that load dist/ as in the tests themselves.
 */
import type { Point } from './points.js';

/** A point, and the number that switches it on. */
export interface Mutant extends Point {
  readonly id: number;
}

/** Reads which mutant is on, once a thread. While it records, it writes down which of them are reached. */
const runtime = (folder: string): string => `
import { appendFileSync as mutantAppend, readFileSync as mutantRead } from 'node:fs';
function mutantIsOn(id: number): boolean {
  const scope = globalThis as { mutantSwitch?: { on: number; reached: Set<number> } };
  scope.mutantSwitch ??= { on: Number(mutantRead(${JSON.stringify(`${folder}/on`)}, 'utf8')), reached: new Set() };
  const { on, reached } = scope.mutantSwitch;
  if (on === -1 && !reached.has(id)) {
    reached.add(id);
    mutantAppend(${JSON.stringify(`${folder}/reached`)}, id + '\\n');
  }
  return on === id;
}
`;

/** @param folder holds the files `on`, the number of a mutant (0: none, -1: record), and `reached` */
export function instrument(text: string, mutants: readonly Mutant[], folder: string): string {
  const order = mutants.toSorted(
    (a, b) => a.start - b.start || b.end - a.end || Number(b.isStatement) - Number(a.isStatement),
  );
  let next = 0;
  const emit = (start: number, end: number): string => {
    let out = '';
    let at = start;
    for (let mutant = order[next]; mutant !== undefined && mutant.start < end; mutant = order[next]) {
      next += 1;
      out += text.slice(at, mutant.start);
      const inner = emit(mutant.start, mutant.end);
      out += mutant.isStatement
        ? `if (mutantIsOn(${mutant.id})) {${mutant.to}} else {${inner}}`
        : `(mutantIsOn(${mutant.id}) ? (${mutant.to}) : (${inner}))`;
      at = mutant.end;
    }
    return out + text.slice(at, end);
  };
  return emit(0, text.length) + runtime(folder);
}
