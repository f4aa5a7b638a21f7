/** What becomes of the mutants, for people. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Mutant } from './instrument.js';
import { interval } from './sample.js';

/** What became of one mutant. */
export interface Fate {
  readonly mutant: Mutant;
  /** `unreached`: no test comes by; counts as survived. */
  readonly end: 'killed' | 'timed out' | 'survived' | 'unreached';
  /** The test that killed it. */
  readonly by?: string;
  /** Why it may survive. */
  readonly accepted?: string;
}

/** A survivor that no test can or need notice. */
interface Accepted {
  readonly file: string;
  readonly from: string;
  readonly to: string;
  /** Part of its line, if the file has more mutants like it. */
  readonly line?: string;
  readonly reason: string;
}

const oneLine = (text: string, most = 90): string => {
  const flat = text.replace(/\s+/g, ' ');
  return flat.length > most ? `${flat.slice(0, most)}…` : flat;
};

/**
 * Why this mutant may survive, by the list beside this file.
 * @param root of the sources
 */
export function acceptance(file: string, root: string): (mutant: Mutant) => string | undefined {
  const list = JSON.parse(readFileSync(file, 'utf8')) as Accepted[];
  const textOf = (mutant: Mutant): string | undefined =>
    readFileSync(join(root, mutant.file), 'utf8').split('\n')[mutant.line - 1];
  return (mutant) =>
    list.find(
      ({ file, from, to, line }) =>
        file === mutant.file &&
        from === oneLine(mutant.from, Infinity) &&
        to === oneLine(mutant.to, Infinity) &&
        (line === undefined || textOf(mutant)?.includes(line)),
    )?.reason;
}

export const isKilled = ({ end }: Fate): boolean => end === 'killed' || end === 'timed out';

const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;

/** `FILE:LINE KIND FROM -> TO` */
export const title = ({ file, line, kind, from, to }: Mutant): string =>
  `${file}:${line} ${kind}: ${oneLine(from)} -> ${to === '' ? '(removed)' : oneLine(to)}`;

/** The score of a folder, without those accepted. */
export function scoreOf(fates: readonly Fate[]): number {
  const counted = fates.filter((fate) => isKilled(fate) || fate.accepted === undefined);
  return counted.length === 0 ? 1 : counted.filter(isKilled).length / counted.length;
}

/** A page in Markdown. */
export function page(folder: string, points: number, seed: number, fates: readonly Fate[]): string {
  const count = (end: Fate['end']): number => fates.filter((fate) => fate.end === end).length;
  const killed = fates.filter(isKilled).length;
  const accepted = fates.filter((fate) => !isKilled(fate) && fate.accepted !== undefined);
  const [low, high] = interval(killed, fates.length);
  const kinds = [...new Set(fates.map(({ mutant }) => mutant.kind))].sort();
  const rows = kinds.map((kind) => {
    const own = fates.filter(({ mutant }) => mutant.kind === kind);
    return `| ${kind} | ${own.length} | ${own.filter(isKilled).length} |`;
  });
  const survivors = fates.filter((fate) => !isKilled(fate));
  return [
    `## ${folder}`,
    '',
    `${fates.length} mutants of ${points}, seed ${seed}: ${killed} killed, ${percent(killed / fates.length)}`,
    `(95 %: ${percent(low)} to ${percent(high)}); without ${accepted.length} accepted survivors ${percent(scoreOf(fates))}.`,
    `By a test ${count('killed')}, by time ${count('timed out')}; survived ${count('survived')}, never reached ${count('unreached')}.`,
    '',
    '| kind | mutants | killed |',
    '|---|---|---|',
    ...rows,
    '',
    ...survivors.map(
      ({ mutant, end, accepted }) =>
        `- ${end}: \`${title(mutant).replaceAll('`', '´')}\`${accepted === undefined ? '' : ` (accepted: ${accepted})`}`,
    ),
    '',
  ].join('\n');
}
