/** `npm run bench [-- OPTIONS NAME ...]`: runs the named benchmarks, or all. */
import { parseArgs } from 'node:util';
import type { Scope } from '../sys/scope.js';
import { compareWith, serveRounds } from './against.js';
import { coreScale } from './core-scale.js';
import { dataPath, dataPathRounds } from './data-path.js';
import { disk, diskRounds } from './disk.js';
import { exitCost, exitCostRounds } from './exit-cost.js';
import { describeHost, hostText } from './host-description.js';
import type { Rounds } from './measure.js';
import { mmioLatency } from './mmio-latency.js';
import { packets, packetsRounds } from './packets.js';
import { Report } from './report.js';
import { restore } from './restore.js';
import { writeResults } from './results-file.js';
import { startUp, startUpRounds } from './start-up.js';
import { UsageError } from './usage-error.js';
import { vfioUser } from './vfio-user.js';
import { vfioUserDma } from './vfio-user-dma.js';

const benchmarks: Readonly<Record<string, (report: Report) => Promise<void>>> = {
  'exit-cost': exitCost,
  'start-up': startUp,
  restore,
  packets,
  'data-path': dataPath,
  disk,
  'core-scale': coreScale,
  'vfio-user': vfioUser,
  'vfio-user-dma': vfioUserDma,
  'mmio-latency': mmioLatency,
};

/** Those that `--against` can run. */
const comparable: Readonly<Record<string, (scope: Scope) => Rounds>> = {
  'exit-cost': exitCostRounds,
  'start-up': startUpRounds,
  packets: packetsRounds,
  'data-path': dataPathRounds,
  disk: diskRounds,
};

const USAGE = `npm run bench -- [--json FILE] [--against COMMIT [--limit 1.05]] [NAME...]
  --json FILE       writes the figures and the machine's description, too; with -, to stdout, and the text to stderr
  --against COMMIT  builds COMMIT in a temporary worktree, and runs both versions in turn; status 1 if this one is slower
  --limit RATIO     by more than this
  NAME              ${Object.keys(benchmarks).join(', ')}; with --against: ${Object.keys(comparable).join(', ')}`;

function parse(args: string[]) {
  try {
    const { values, positionals } = parseArgs({
      args,
      allowPositionals: true,
      options: {
        json: { type: 'string' },
        against: { type: 'string' },
        limit: { type: 'string' },
        rounds: { type: 'boolean' },
        help: { type: 'boolean' },
      },
    });
    return { values, names: positionals };
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

/** @throws UsageError for one that is not there */
function chosen<T>(names: readonly string[], from: Readonly<Record<string, T>>): [string, T][] {
  const unknown = names.filter((name) => !(name in from));
  if (unknown.length > 0)
    throw new UsageError(
      `unknown benchmark ${unknown.join(', ')}; choose from ${Object.keys(from).join(', ')}`,
    );
  return Object.entries(from).filter(([name]) => names.length === 0 || names.includes(name));
}

async function main(): Promise<void> {
  const { values, names } = parse(process.argv.slice(2));
  if (values.help) return console.log(USAGE);
  if (values.rounds) {
    const [[, rounds] = []] = chosen(names, comparable);
    return serveRounds(rounds as (scope: Scope) => Rounds);
  }
  const limit = Number(values.limit ?? 1.05);
  if (!(limit > 0)) throw new UsageError(`--limit ${values.limit} is no ratio`);
  const report = new Report(values.json === '-' ? console.error : console.log);
  const host = describeHost();
  if (values.against === undefined) {
    const wanted = chosen(names, benchmarks);
    report.line(hostText(host));
    for (const [name, run] of wanted) {
      report.line(name);
      await run(report);
    }
  } else {
    const wanted = chosen(names, comparable).map(([name]) => name);
    report.line(hostText(host));
    if (await compareWith(values.against, { names: wanted, limit, report })) process.exitCode = 1;
  }
  if (values.json !== undefined) writeResults(values.json, { host, figures: report.figures });
}

try {
  await main();
} catch (error) {
  if (!(error instanceof UsageError)) throw error;
  console.error(`${error.message}\n${USAGE}`);
  process.exitCode = 64;
}
