/** Errors of a command: what is printed, and the exit status. */
import { SysError } from '../sys/error.js';
import { printable } from '../sys/printable.js';
import { ConfigError } from './config-error.js';
import { EX_UNAVAILABLE } from './outcome.js';

/** From sysexits.h: the command line, the configuration, or a file that it names is wrong. */
export const EX_USAGE = 64;

/** What the user gave is wrong, and not the host. By code: classes do not cross threads. */
const WRONG_INPUT = ['ECONFIG', 'EINPUTFILE', 'EGUESTIMAGE', 'EPLUGIN'];

const codeOf = (error: unknown): unknown =>
  error instanceof Error && 'code' in error ? error.code : undefined;

export const errorStatus = (error: unknown): number =>
  WRONG_INPUT.includes(String(codeOf(error))) ? EX_USAGE : EX_UNAVAILABLE;

/** Longer than any path that is not a mistake. */
const MOST_SHOWN = 300;
const [SHOWN_HEAD, SHOWN_TAIL] = [120, 30];

/** The lines for a person, a sentence for each problem: what was given or read is shortened, and moves no cursor. */
export function errorLines(error: unknown): readonly string[] {
  const texts =
    error instanceof ConfigError
      ? error.problems.map(({ path, text }) => `tsvisor: ${path === '' ? '' : `${path}: `}${text}`)
      : [`tsvisor: ${error instanceof Error ? error.message : String(error)}`];
  return texts.map((text) => text.split('\n').map(printable).join('\n').replace(/\S+/g, shortened));
}

const shortened = (word: string): string =>
  word.length <= MOST_SHOWN ? word : `${word.slice(0, SHOWN_HEAD)}…${word.slice(-SHOWN_TAIL)}`;

/** The line for a program, in place of the report that `--json` asks for. */
export function errorJson(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  const problems = error instanceof ConfigError ? { problems: error.problems } : {};
  const sys = error instanceof SysError ? { call: error.call, target: error.target, hint: error.hint } : {};
  const code = codeOf(error);
  return JSON.stringify({ error: { status: errorStatus(error), code, message, ...sys, ...problems } });
}
