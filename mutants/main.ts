/**
 * `npm run mutants [-- FOLDER ...] [--sample N | --all] [--seed N] [--least PERCENT]`: puts small faults into the sources,
 * one at a time, and counts those that no test notices. README.md says what is counted.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import ts from 'typescript';
import type { Mutant } from './instrument.js';
import { type Point, pointsOf } from './points.js';
import { acceptance, type Fate, isKilled, page, scoreOf, title } from './report.js';
import { sample } from './sample.js';
import { Tests, type Verdict } from './tests.js';
import { Workspace } from './workspace.js';

const PROJECT = fileURLToPath(new URL('../..', import.meta.url));
/** Folders whose own tests have to kill their mutants. */
const FOLDERS = ['vfio/core', 'vfio/host', 'vfio/user', 'devices/vfio-pci', 'kvm'];
/** Folders whose tests count as well: those of vfio/testing run the rules for every provider, on the core. */
const ALSO: Readonly<Record<string, string>> = { 'vfio/core': 'vfio/testing' };
/** Test files that take longer, in ms, run last, and only for mutants that outlive the others. */
const SLOW = 3_000;

const { values, positionals } = parseArgs({
  args: process.argv.slice(2),
  allowPositionals: true,
  options: {
    sample: { type: 'string', default: '150' },
    all: { type: 'boolean', default: false },
    seed: { type: 'string' },
    least: { type: 'string', default: '88' },
    kind: { type: 'string' },
  },
});

/** Sources that count: no tests or fakes, and no tables of numbers, which tests compare with the kernel's headers. */
const counts = (file: string): boolean =>
  !/\.test\.ts$|\/testing(\/|\.ts$)|\/(lab-probe|scripted-nic|index)\.ts$/.test(file) &&
  !/\/(caps|uapi[\w-]*|structs[\w-]*)\.ts$/.test(file);

/** All points of each folder. */
function pointsOfFolders(folders: readonly string[]): Map<string, Point[]> {
  const { config } = ts.readConfigFile(join(PROJECT, 'tsconfig.json'), ts.sys.readFile);
  const { options, fileNames } = ts.parseJsonConfigFileContent(config, ts.sys, PROJECT);
  const program = ts.createProgram(fileNames, options);
  const checker = program.getTypeChecker();
  return new Map(
    folders.map((folder) => {
      const sources = program
        .getSourceFiles()
        .map((source) => ({ source, file: relative(PROJECT, source.fileName) }))
        .filter(({ file }) => file.startsWith(`${folder}/`) && counts(file));
      return [folder, sources.flatMap(({ source, file }) => pointsOf(file, source, checker))];
    }),
  );
}

/** What each test file reaches, and how long it takes. A busy machine can fail one: it is run once more. */
async function survey(workspace: Workspace, tests: Tests) {
  const reach = [];
  for (const file of tests.files) {
    let verdict: Verdict | undefined;
    const run = async (): Promise<void> => {
      verdict = await tests.run([file], 120_000);
    };
    let reached = await workspace.reached(run);
    if (verdict?.end !== 'passed') reached = await workspace.reached(run);
    const { end, by, ms } = verdict as Verdict;
    if (end !== 'passed') console.log(`left out, as it fails without a mutant: ${by ?? end}`);
    else reach.push({ file, ms, reached });
  }
  return reach.sort((a, b) => a.ms - b.ms);
}

async function main(): Promise<number> {
  const folders = positionals.length > 0 ? positionals.map((folder) => folder.replace(/\/$/, '')) : FOLDERS;
  const seed = values.seed === undefined ? Math.floor(Math.random() * 1e9) : Number(values.seed);
  const all = pointsOfFolders(folders);
  let id = 0;
  const chosen = new Map<string, Mutant[]>();
  for (const [folder, points] of all) {
    const some = values.kind === undefined ? points : points.filter(({ kind }) => kind === values.kind);
    const taken = values.all ? some : sample(some, Number(values.sample), seed);
    chosen.set(
      folder,
      taken.map((point) => {
        id += 1;
        return { ...point, id };
      }),
    );
    console.log(`${folder}: ${taken.length} of ${points.length} points, seed ${seed}`);
  }

  const acceptedBy = acceptance(join(PROJECT, 'mutants/accepted.json'), PROJECT);
  using workspace = new Workspace(PROJECT, [...chosen.values()].flat());
  const testersOf = (folder: string): string[] => [folder, ALSO[folder] ?? folder];
  await using tests = await Tests.open(workspace.root, folders.flatMap(testersOf));
  const reach = await survey(workspace, tests);
  console.log(`${Math.round(performance.now() / 1000)} s: ${reach.length} test files pass without a mutant`);

  /** They run together for each mutant: that has to work without one, before the first mutant and after the last. */
  const control = async (): Promise<void> => {
    for (const stage of [reach.filter(({ ms }) => ms < SLOW), reach.filter(({ ms }) => ms >= SLOW)]) {
      if (stage.length === 0) continue;
      const { end, by } = await tests.run(
        stage.map(({ file }) => file),
        300_000,
      );
      if (end !== 'passed') throw new Error(`without a mutant, all tests together end so: ${by ?? end}`);
    }
  };
  await control();

  /** How many mutants of a source a test file has killed: it is likely to kill the next one. */
  const kills = new Map<string, number>();
  const killsOf = (source: string, tester: string): number =>
    (kills.get(`${source} ${tester}`) ?? 0) + (tester.startsWith(source.replace(/ts$/, '')) ? 1 : 0);

  /** By the tests that count for its folder, quick ones first; among these, the likely ones first. */
  const judge = async (folder: string, mutant: Mutant): Promise<Fate> => {
    const able = reach
      .filter(
        ({ file, reached }) =>
          testersOf(folder).some((tester) => file.startsWith(`${tester}/`)) && reached.has(mutant.id),
      )
      .sort((a, b) => killsOf(mutant.file, b.file) - killsOf(mutant.file, a.file));
    if (able.length === 0) return { mutant, end: 'unreached' };
    workspace.turnOn(mutant.id);
    const stages = [able.filter(({ ms }) => ms < SLOW), able.filter(({ ms }) => ms >= SLOW)];
    for (const stage of stages.filter(({ length }) => length > 0)) {
      const limit = 8_000 + 3 * stage.reduce((sum, { ms }) => sum + ms, 0);
      const { end, by } = await tests.run(
        stage.map(({ file }) => file),
        limit,
      );
      if (end === 'timed out') return { mutant, end };
      if (end !== 'failed') continue;
      const tester = by?.split(':')[0];
      kills.set(`${mutant.file} ${tester}`, (kills.get(`${mutant.file} ${tester}`) ?? 0) + 1);
      return { mutant, end: 'killed', ...(by !== undefined && { by }) };
    }
    return { mutant, end: 'survived' };
  };

  const report = join(PROJECT, 'mutants/.report');
  mkdirSync(report, { recursive: true });
  let isGood = true;
  for (const [folder, mutants] of chosen) {
    const fates: Fate[] = [];
    for (const mutant of mutants) {
      const fate = await judge(folder, mutant);
      const accepted = acceptedBy(mutant);
      fates.push({ ...fate, ...(accepted !== undefined && { accepted }) });
      if (!isKilled(fate))
        console.log(`${fate.end} ${title(mutant)}${accepted === undefined ? '' : ' (accepted)'}`);
      if (fate.end === 'timed out') console.log(`timed out ${title(mutant)}`);
      if (fates.length % 25 === 0) console.log(`  ${fates.length} of ${mutants.length}`);
    }
    const text = page(folder, all.get(folder)?.length ?? 0, seed, fates);
    const name = folder.replaceAll('/', '-');
    writeFileSync(join(report, `${name}.md`), text);
    writeFileSync(join(report, `${name}.json`), JSON.stringify({ folder, seed, fates }, null, 1));
    console.log(text.split('\n').slice(0, 5).join('\n'));
    isGood &&= scoreOf(fates) * 100 >= Number(values.least);
  }
  workspace.turnOn(0);
  await control();
  console.log(`reports: ${relative(process.cwd(), report) || '.'}/`);
  return isGood ? 0 : 1;
}

const started = performance.now();
const code = await main();
console.log(`${Math.round((performance.now() - started) / 1000)} s`);
process.exit(code);
