/** The command line as a table: parsing, and the help that is printed, follow from the rows. */
import { ConfigError, type ConfigProblem } from './config-error.js';

/** An option of a command. */
export interface OptionRow {
  /** Without the leading dashes. */
  readonly name: string;
  /** A single letter that stands for it, `-h`. */
  readonly short?: string;
  /** Name of its value in the help; absent for an option without one. */
  readonly value?: string;
  /** The value can be left out; it is then ''. */
  readonly isValueOptional?: boolean;
  /** It can be given more than once. Any other option is an error the second time, not a silent override. */
  readonly isRepeatable?: boolean;
  /** Lines of help. */
  readonly help: readonly string[];
}

/** A command: `tsvisor run`. */
export interface Command {
  readonly name: string;
  /** Its argument in the help, `DEVICE`; absent if it has none. */
  readonly argument?: string;
  readonly summary: readonly string[];
  readonly options: readonly OptionRow[];
  /** Sections below the options. */
  readonly more: readonly string[];
}

/** The options as they were given. */
export class ParsedOptions {
  readonly #values: ReadonlyMap<string, readonly string[]>;
  /** What is no option, in order. */
  readonly positionals: readonly string[];

  constructor(values: ReadonlyMap<string, readonly string[]>, positionals: readonly string[]) {
    this.#values = values;
    this.positionals = positionals;
  }

  has(name: string): boolean {
    return this.#values.has(name);
  }

  /** The value of an option; undefined if it is not given. */
  value(name: string): string | undefined {
    return this.#values.get(name)?.[0];
  }

  /** The values of a repeatable option; undefined if it is not given. */
  list(name: string): readonly string[] | undefined {
    return this.#values.get(name);
  }
}

export const usageError = (path: string, text: string): ConfigError => new ConfigError([{ path, text }]);

/** Whether these arguments ask for an option anywhere, whatever else is wrong with them. `--` ends the options. */
export function asksFor(args: readonly string[], name: string, short?: string): boolean {
  const end = args.indexOf('--');
  const options = end < 0 ? args : args.slice(0, end);
  return options.includes(`--${name}`) || (short !== undefined && options.includes(`-${short}`));
}

/** @throws ConfigError listing every problem, each with the option that it is about */
export function parseCommandLine(command: Command, args: readonly string[]): ParsedOptions {
  const values = new Map<string, string[]>();
  const positionals: string[] = [];
  const problems: ConfigProblem[] = [];
  const problem = (path: string, text: string) => problems.push({ path, text });
  const rest = [...args];
  for (let word = rest.shift(); word !== undefined; word = rest.shift()) {
    if (word === '--') {
      positionals.push(...rest.splice(0));
      break;
    }
    if (!word.startsWith('-') || word === '-') {
      positionals.push(word);
      continue;
    }
    const found = findOption(command, word);
    if (found === undefined) {
      problem(word.split('=')[0] as string, `there is no such option: see tsvisor ${command.name} --help`);
      continue;
    }
    const { row, given } = found;
    const name = `--${row.name}`;
    const value = row.value === undefined ? given : (given ?? takeValue(command, row, rest));
    if (row.value === undefined && given !== undefined)
      problem(name, `takes no value, and '${given}' is given`);
    else if (row.value !== undefined && value === undefined) problem(name, missingValue(row, rest[0]));
    const list = values.get(row.name);
    if (list === undefined) values.set(row.name, [value ?? '']);
    else if (row.isRepeatable === true) list.push(value ?? '');
    else problem(name, 'is given twice');
  }
  if (problems.length > 0) throw new ConfigError(problems);
  return new ParsedOptions(values, positionals);
}

function findOption(command: Command, word: string) {
  const at = word.indexOf('=');
  const name = at < 0 ? word : word.slice(0, at);
  const row = command.options.find((option) => name === `--${option.name}` || name === `-${option.short}`);
  return row && { row, given: at < 0 ? undefined : word.slice(at + 1) };
}

/** A value can begin with a dash (`--memory -5`), unless it is the next option. */
function takeValue(command: Command, row: OptionRow, rest: string[]): string | undefined {
  const [next] = rest;
  const isOption = next !== undefined && (next === '--' || findOption(command, next) !== undefined);
  if (row.isValueOptional !== true) return next === undefined || isOption ? undefined : rest.shift();
  // Where an argument can follow, only a number is taken for the value.
  const isValue = command.argument === undefined ? /^(?!-)|^-\d/ : /^-?\d/;
  return next === undefined || isOption || !isValue.test(next) ? '' : rest.shift();
}

const missingValue = ({ name, value }: OptionRow, next: string | undefined): string =>
  next === undefined
    ? `needs a value: --${name} ${value}`
    : `needs a value: --${name} ${value}; if '${next}' is to be it: --${name}=${next}`;

const HELP_COLUMN = 23;

/** The help of a command, at most 80 columns wide. */
export function helpText({ name, argument, summary, options, more }: Command): string {
  const usage = `usage: tsvisor ${name}${argument === undefined ? '' : ` ${argument}`} [options]`;
  return [usage, '', ...summary, '', ...options.flatMap(optionLines), ...more, ''].join('\n');
}

function optionLines({ name, short, value, isValueOptional, help }: OptionRow): string[] {
  const shown = value === undefined ? '' : isValueOptional === true ? ` [${value}]` : ` ${value}`;
  const head = `  ${short === undefined ? '' : `-${short}, `}--${name}${shown}`;
  const [first = '', ...others] = help;
  const indent = ' '.repeat(HELP_COLUMN);
  const isShort = head.length < HELP_COLUMN - 1;
  return [
    ...(isShort ? [head.padEnd(HELP_COLUMN) + first] : [head, indent + first]),
    ...others.map((line) => indent + line),
  ];
}
