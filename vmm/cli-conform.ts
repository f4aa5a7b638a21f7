import { printable, printableJson } from '../sys/printable.js';
import { didYouMean } from '../sys/suggestion.js';
import {
  checkVfioUserServer,
  VFIO_USER_SERVER_RULES,
  type VfioUserConformance,
  type VfioUserRuleResult,
} from '../vfio/user/conformance/index.js';
import { oneArgument } from './cli-arguments.js';
import { CONFORM } from './cli-help-conform.js';
import { parseCommandLine, usageError } from './command-line.js';
import type { Output } from './output.js';
import { shown } from './problem-text.js';
import { socketProblem } from './serial-end.js';

/** The exit status if the server breaks a rule, or not all could be tried. */
const FAILS = 1;
const DEFAULT_SECONDS = '2';
const MOST_SECONDS = 600;
const INDENT = ' '.repeat(4);

/** Runs `tsvisor conform`. Returns the exit code. @throws ConfigError for wrong usage; SysError if nobody listens */
export async function conform(args: readonly string[], out: Output): Promise<number> {
  const options = parseCommandLine(CONFORM, args);
  const socket = oneArgument('conform', options, 'the SOCKET of a server').replace(/^unix:/, '');
  const problem = socketProblem(socket);
  if (problem !== undefined) throw usageError(`conform ${shown(socket)}`, problem);
  const only = options.list('only');
  const unknown = only?.find((name) => !VFIO_USER_SERVER_RULES.includes(name));
  if (unknown !== undefined)
    throw usageError(
      '--only',
      `there is no rule ${shown(unknown)}${didYouMean(unknown, VFIO_USER_SERVER_RULES)}`,
    );
  const patienceMs = parseSeconds(options.value('timeout') ?? DEFAULT_SECONDS);
  const isJson = options.has('json');
  const say = (lines: readonly string[]) => {
    if (!isJson) for (const line of lines) out.line(printable(line));
  };
  const report = await checkVfioUserServer(socket, {
    ...(only === undefined ? {} : { only }),
    patienceMs,
    heard: (result) => say(ruleLines(result)),
  });
  say(['', conclusion(report)]);
  if (isJson) out.line(printableJson(report));
  return isConforming(report) ? 0 : FAILS;
}

function parseSeconds(text: string): number {
  const seconds = /^\d+(\.\d+)?$/.test(text) ? Number(text) : 0;
  if (!(seconds > 0 && seconds <= MOST_SECONDS))
    throw usageError('--timeout', `${shown(text)} is not a number of seconds, ${MOST_SECONDS} at most`);
  return Math.ceil(seconds * 1000);
}

const isConforming = ({ results, ended }: VfioUserConformance): boolean =>
  ended === undefined && results.every(({ verdict }) => verdict !== 'failed');

/** A line for a rule; what was sent and expected only where that was not what happened. */
function ruleLines({ name, section, sent, expected, got, verdict }: VfioUserRuleResult): readonly string[] {
  const line = `${verdict.padEnd('not applicable'.length)}  ${name}`;
  if (verdict === 'passed') return [line];
  if (verdict === 'not applicable') return [`${line}: ${got}`];
  return [
    line,
    `${INDENT}section   ${section}`,
    `${INDENT}sent      ${sent}`,
    `${INDENT}expected  ${expected}`,
    `${INDENT}got       ${got}`,
  ];
}

function conclusion({ results, ended }: VfioUserConformance): string {
  const counts = (['passed', 'failed', 'not applicable'] as const)
    .map((each) => `${results.filter(({ verdict }) => verdict === each).length} ${each}`)
    .join(', ');
  return ended === undefined ? counts : `${counts}; not all rules were tried: ${ended}`;
}
