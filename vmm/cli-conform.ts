import { printable, printableJson } from '../sys/printable.js';
import { didYouMean } from '../sys/suggestion.js';
import {
  type ClientCheckOptions,
  checkVfioUserClient,
  checkVfioUserServer,
  VFIO_USER_CLIENT_RULES,
  VFIO_USER_SERVER_RULES,
  type VfioUserConformance,
  type VfioUserRuleResult,
} from '../vfio/user/conformance/index.js';
import { oneArgument } from './cli-arguments.js';
import { CONFORM } from './cli-help-conform.js';
import { startClient } from './client-command.js';
import { parseCommandLine, usageError } from './command-line.js';
import type { Output } from './output.js';
import { shown } from './problem-text.js';
import { socketProblem } from './serial-end.js';

/** The exit status if a rule is broken, or not all could be tried. */
const FAILS = 1;
/** In the words of COMMAND. */
const SOCKET_PLACE = '{}';
const MOST_SECONDS = 600;
const INDENT = ' '.repeat(4);

/** Runs `tsvisor conform`. Returns the exit code. @throws ConfigError for wrong usage; SysError if nobody listens */
export async function conform(args: readonly string[], out: Output): Promise<number> {
  const options = parseCommandLine(CONFORM, args);
  const listen = options.value('listen');
  const socket = socketOf(listen ?? oneArgument('conform', options, 'the SOCKET of a server'));
  const only = onlyOf(
    options.list('only'),
    listen === undefined ? VFIO_USER_SERVER_RULES : VFIO_USER_CLIENT_RULES,
  );
  const patience = options.value('timeout');
  const patienceMs = patience === undefined ? undefined : parseSeconds(patience);
  const isJson = options.has('json');
  const say = (lines: readonly string[]) => {
    if (!isJson) for (const line of lines) out.line(printable(line));
  };
  const common = {
    ...(only === undefined ? {} : { only }),
    ...(patienceMs === undefined ? {} : { patienceMs }),
    heard: (result: VfioUserRuleResult) => say(ruleLines(result)),
  };
  const report =
    listen === undefined
      ? await checkVfioUserServer(socket, common)
      : await checkVfioUserClient({ ...common, path: socket, ...clientOf(options.positionals) });
  say(['', conclusion(report)]);
  if (isJson) out.line(printableJson(report));
  return isConforming(report) ? 0 : FAILS;
}

function socketOf(text: string): string {
  const socket = text.replace(/^unix:/, '');
  const problem = socketProblem(socket);
  if (problem !== undefined) throw usageError(`conform ${shown(socket)}`, problem);
  return socket;
}

function onlyOf(
  only: readonly string[] | undefined,
  rules: readonly string[],
): readonly string[] | undefined {
  const unknown = only?.find((name) => !rules.includes(name));
  if (unknown === undefined) return only;
  throw usageError('--only', `there is no rule ${shown(unknown)}${didYouMean(unknown, rules)}`);
}

/** COMMAND, for each rule; or whoever connects, for whom it waits without a limit. */
function clientOf(words: readonly string[]): Pick<ClientCheckOptions, 'attach' | 'connectMs'> {
  if (words.length === 0) return { connectMs: Number.POSITIVE_INFINITY };
  if (words.some((word) => word.includes(SOCKET_PLACE)))
    return { attach: (path) => startClient(words.map((word) => word.replaceAll(SOCKET_PLACE, path))) };
  throw usageError('COMMAND', `has no ${SOCKET_PLACE} in the place of the socket's path`);
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
