import { parseArgs } from 'node:util';
import { boot } from './compare-boot.js';
import { disk } from './compare-disk.js';
import { net } from './compare-net.js';
import { passthrough } from './compare-passthrough.js';
import { view } from './compare-view.js';
import { type Contest, comparison, type Figures } from './contest.js';
import { GuestLab } from './guest-lab.js';
import type { L1Options } from './l1.js';

/** For all contests, so that they share an L1. The largest guest's memory is locked in it, in addition to everything else there. */
const L1_OPTIONS: L1Options = { devices: ['e1000e'], memory: 3072 };
const contests: readonly Contest[] = [boot, passthrough, net, disk, view];

type Samples = Map<number, Figures>;

/** One more sample of each side. A side that fails is reported with its cause, and lacks this sample only. */
async function runRound(
  lab: GuestLab,
  contest: Contest,
  number: number,
  samples: ReadonlyMap<string, Samples>,
): Promise<void> {
  // In turn from both ends, so that a machine that gets slower favours none.
  const sides = number % 2 === 1 ? contest.sides : contest.sides.toReversed();
  for (const { name, measure } of sides) {
    try {
      const figures = await measure(() => lab.l1(L1_OPTIONS));
      samples.get(name)?.set(number, figures);
      const shown = Object.entries(figures).map(([row, value]) => `${row} ${value.toFixed(2)}`);
      console.log(`${contest.name}, round ${number}, ${name}: ${shown.join(', ')}`);
    } catch (error) {
      console.log(`${contest.name}, round ${number}, ${name}: no sample: ${(error as Error).message}`);
      await lab.discard();
    }
  }
}

/** @returns whether each pair of sides has a round with both */
function printTable({ rows, pairs }: Contest, samples: ReadonlyMap<string, Samples>): boolean {
  const none: Samples = new Map();
  let isWhole = true;
  const cells = Object.entries(rows).flatMap(([row, title]) =>
    pairs.map(([ours, theirs]) => {
      const found = comparison(row, samples.get(ours) ?? none, samples.get(theirs) ?? none);
      isWhole &&= found.pairs > 0;
      const { ratio, lowest, highest } = found;
      const fixed = (value: number) => (Number.isNaN(value) ? '-' : value.toFixed(2));
      return {
        figure: title,
        ours: `${ours}: ${fixed(found.ours)}`,
        theirs: `${theirs}: ${fixed(found.theirs)}`,
        ratio: fixed(ratio),
        'lowest to highest': `${fixed(lowest)} to ${fixed(highest)}`,
        pairs: found.pairs,
      };
    }),
  );
  console.table(cells);
  return isWhole;
}

/** @throws Error naming the contests if one is unknown */
function chosen(names: string | undefined): readonly Contest[] {
  if (names === undefined) return contests;
  return names.split(',').map((name) => {
    const found = contests.find((contest) => contest.name === name);
    if (found !== undefined) return found;
    throw new Error(`no rows '${name}'\n  hint: some of ${contests.map((each) => each.name).join(',')}`);
  });
}

/** A number of rounds. @throws Error for anything else */
function roundsOf(text: string): number {
  if (!/^[1-9]\d?$/.test(text)) throw new Error(`--rounds ${text}: not a number from 1 to 99`);
  return Number(text);
}

/**
 * Compares tsvisor with Debian's QEMU: same kernel, initramfs and devices, in turn, in one L1; `view` on this machine. Prints medians, and the ratios
 * of the rounds; absolute values are those of software emulation.
 * @param args `NAME...`, or `--rows NAME,...`, of {@link contests}, `--rounds N`
 * @returns whether there is something to compare in each row
 */
export async function compare(args: readonly string[]): Promise<boolean> {
  const options = { rows: { type: 'string' }, rounds: { type: 'string', default: '3' } } as const;
  const { values, positionals } = parseArgs({ args: [...args], options, allowPositionals: true });
  const names = [...(values.rows === undefined ? [] : [values.rows]), ...positionals].join();
  const [wanted, rounds] = [chosen(names === '' ? undefined : names), roundsOf(values.rounds)];
  await using lab = new GuestLab();
  let isWhole = true;
  for (const contest of wanted) {
    const samples = new Map(contest.sides.map(({ name }) => [name, new Map() as Samples]));
    for (let number = 1; number <= rounds; number++) await runRound(lab, contest, number, samples);
    isWhole = printTable(contest, samples) && isWhole;
  }
  return isWhole;
}
