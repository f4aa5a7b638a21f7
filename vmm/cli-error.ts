/** Errors of a command: what is printed, and the exit status. */
import { SysError } from '../sys/error.js';
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

/** The lines for a person, a sentence for each problem. */
export function errorLines(error: unknown): readonly string[] {
  if (error instanceof ConfigError)
    return error.problems.map(({ path, text }) => `tsvisor: ${path === '' ? '' : `${path}: `}${text}`);
  return [`tsvisor: ${error instanceof Error ? error.message : String(error)}`];
}

/** The line for a program, in place of the report that `--json` asks for. */
export function errorJson(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  const problems = error instanceof ConfigError ? { problems: error.problems } : {};
  const sys = error instanceof SysError ? { call: error.call, target: error.target, hint: error.hint } : {};
  const code = codeOf(error);
  return JSON.stringify({ error: { status: errorStatus(error), code, message, ...sys, ...problems } });
}
