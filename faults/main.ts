/** `npm run faults`: makes single system calls of run and serve fail, and looks how they end. See README.md. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { randomOf } from '../sys/testing/random.js';
import { faultOf, type Kind, nameOf as nameOfFault, pick } from './fault.js';
import { compileInjector, type Site, type Trial } from './injector.js';
import { momentOf, nameOf as nameOfMoment, pickMoment } from './moment.js';
import { PATIENCE, type Result, runIn, SCENARIOS, type Scenario, SECONDS } from './scenario.js';
import { judgeFault, judgeMoment, textOf, type Verdict } from './verdict.js';

const DEFAULT_RUNS = 300;
/** Of these runs, one in so many is a signal instead of a call that fails. */
const SIGNAL_IN = 6;
/** A run has a dozen threads: more at once would only make each slower. */
const AT_ONCE = 2;
const REPORT_EVERY = 50;

type NamedTrial = Exclude<Trial, string>;

const nameOf = (trial: NamedTrial): string => ('signal' in trial ? nameOfMoment(trial) : nameOfFault(trial));
const trialOf = (name: string): NamedTrial => momentOf(name) ?? faultOf(name);
const judge = (trial: NamedTrial, result: Result): Verdict =>
  'signal' in trial ? judgeMoment(trial, result) : judgeFault(trial, result);

function scenarioOf(name: string): Scenario {
  const scenario = SCENARIOS.find((each) => each.name === name);
  if (scenario === undefined)
    throw new Error(`${name}: scenarios are ${SCENARIOS.map((each) => each.name).join(', ')}`);
  return scenario;
}

/** What a scenario does by itself. */
interface Healthy {
  readonly scenario: string;
  readonly kinds: readonly Kind[];
  /** How long it takes, in milliseconds. */
  readonly took: number;
}

/** @throws Error if the scenario fails by itself */
async function record(scenario: Scenario, site: Site): Promise<Healthy> {
  const [recorded, timed] = [await runIn(scenario, site, 'record'), await runIn(scenario, site, 'nothing')];
  for (const { ending, problems } of [recorded, timed]) {
    if ((ending.status === 0 || ending.status === 143) && problems.length === 0) continue;
    const why = [`status ${ending.status}`, ...problems].join('; ');
    throw new Error(`${scenario.name} fails by itself: ${why}\n${ending.stdout}${ending.stderr}`);
  }
  const { kinds } = recorded.ending;
  const calls = kinds.reduce((sum, { count }) => sum + count, 0);
  const { took } = timed.ending;
  console.log(`${scenario.name.padEnd(10)}${kinds.length} kinds of calls, ${calls} calls, ${took} ms`);
  return { scenario: scenario.name, kinds, took };
}

function sample(healthy: readonly Healthy[], runs: number, seed: number): NamedTrial[] {
  const random = randomOf(seed);
  return Array.from({ length: runs }, (_, i) => {
    const { scenario, kinds, took } = healthy[i % healthy.length] as Healthy;
    const isSignal = random() < 1 / SIGNAL_IN;
    return isSignal ? pickMoment(scenario, took, random) : pick(scenario, kinds, random);
  });
}

/** What to run, and where. */
interface Plan {
  readonly trials: readonly NamedTrial[];
  readonly site: Site;
}

/** The trials of the command line, or a sample. @param site of the recordings */
async function plan(site: Site): Promise<Plan> {
  const { values, positionals } = parseArgs({
    options: { runs: { type: 'string' }, seed: { type: 'string' } },
    allowPositionals: true,
  });
  if (positionals.length > 0) return { trials: positionals.map(trialOf), site };
  const healthy: Healthy[] = [];
  for (const scenario of SCENARIOS) healthy.push(await record(scenario, site));
  const seed = Number(values.seed ?? Date.now() % 2 ** 31);
  const runs = Number(values.runs ?? DEFAULT_RUNS);
  const longest = Math.max(...healthy.map(({ took }) => took)) / 1000;
  const seconds = Math.ceil(Math.max(SECONDS, PATIENCE * longest));
  console.log(`\n${runs} runs of ${seconds} s at most, seed ${seed}`);
  return { trials: sample(healthy, runs, seed), site: { ...site, seconds } };
}

/** Runs trials, two at once, and prints those that end wrong. @returns the exit status */
async function runAll({ trials, site }: Plan): Promise<number> {
  const counts = { orderly: 0, missed: 0, outside: 0, wrong: 0 };
  const reasons = new Map<string, number>();
  /** A busy machine delays a run as a hang does: these run once more, alone. */
  const late: NamedTrial[] = [];

  const run = async (trial: NamedTrial, isLast: boolean): Promise<void> => {
    const result = await runIn(scenarioOf(trial.scenario), site, trial);
    const isLate =
      result.ending.isLate || result.problems.some((problem) => /had to be killed/.test(problem));
    if (isLate && !isLast) {
      late.push(trial);
      return;
    }
    const verdict = judge(trial, result);
    counts[verdict.kind]++;
    if (verdict.kind === 'wrong') console.log(textOf(nameOf(trial), result, verdict.problems));
    if (verdict.kind === 'outside') reasons.set(verdict.reason, (reasons.get(verdict.reason) ?? 0) + 1);
    if (trials.length > 1) return;
    console.log(`${nameOf(trial)}: ${verdict.kind}\n${result.ending.stdout}${result.ending.stderr}`);
  };

  const queue = trials.entries();
  const work = async (): Promise<void> => {
    for (const [i, trial] of queue) {
      await run(trial, false);
      if ((i + 1) % REPORT_EVERY === 0) console.log(`  ${i + 1} of ${trials.length}`);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  for (const trial of late) await run(trial, true);

  const { orderly, missed, outside, wrong } = counts;
  console.log(`\n${orderly} orderly, ${missed} not reached, ${outside} outside our reach, ${wrong} wrong`);
  for (const [reason, count] of reasons) console.log(`  outside our reach: ${count} ${reason}`);
  return wrong === 0 ? 0 : 1;
}

const folder = mkdtempSync(join(tmpdir(), 'tsvisor-faults-'));
try {
  const site = { injector: compileInjector(folder), folder, seconds: PATIENCE * SECONDS };
  process.exitCode = await runAll(await plan(site));
} finally {
  rmSync(folder, { recursive: true, force: true });
}
