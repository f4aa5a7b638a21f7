/** The command line as a table: parsing, help, completion and the manual page follow from the rows. */

import { didYouMean } from '../sys/suggestion.js';
import { ConfigError, type ConfigProblem } from './config-error.js';

/** An option of a command. */
export interface OptionRow {
  /** Without the leading dashes. */
  readonly name: string;
  /** A single letter that stands for it, `-h`. */
  readonly short?: string;
  /** Name of its value in the help; absent for an option without one. FILE, PATH and MODULE are completed as files. */
  readonly value?: string;
  /** Words that its value is or begins with, for the completion. */
  readonly words?: readonly string[];
  /** The value can be left out; it is then ''. */
  readonly isValueOptional?: boolean;
  /** It can be given more than once. Any other option is an error the second time, not a silent override. */
  readonly isRepeatable?: boolean;
  /** Lines of help. */
  readonly help: readonly string[];
}

/** A command: `tsvisor run`, `tsvisor mdev list`. */
export interface Command {
  /** All of its words: `mdev list`. */
  readonly name: string;
  /** What it does, in a few words, for the list of commands. */
  readonly brief: string;
  /** Its argument in the help, `DEVICE`; absent if it has none. ADDRESS is completed with PCI functions, SOCKET as a file. */
  readonly argument?: string;
  /** Words that its argument is or begins with, for the completion. */
  readonly words?: readonly string[];
  readonly summary: readonly string[];
  readonly options: readonly OptionRow[];
  /** Its help lists devices below the options. */
  readonly takesDevices?: boolean;
  /** Sections below the options. */
  readonly more: readonly string[];
  /** The commands of which its next word chooses one; it does nothing by itself then. */
  readonly commands?: readonly Command[];
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

const lastWord = ({ name }: Command): string => name.slice(name.lastIndexOf(' ') + 1);

/**
 * The command that the first words name, and the words after them. If they ask for help, it may be one that has commands.
 * @param above the words before, for messages
 * @throws ConfigError if there is none
 */
export function findCommand(
  commands: readonly Command[],
  args: readonly string[],
  above = '',
): { readonly command: Command; readonly rest: readonly string[] } {
  const names = commands.map(lastWord);
  const [word, ...rest] = args;
  const list = `${names.slice(0, -1).join(', ')} or ${names.at(-1)}`;
  const help = `tsvisor ${above === '' ? '' : `${above} `}--help`;
  if (word === undefined) throw usageError(above, `a command is missing: ${list}; see ${help}`);
  const command = commands.find((each) => lastWord(each) === word);
  if (command === undefined) {
    if (word.startsWith('-')) throw usageError(word, optionFirst(commands, word, above, help));
    const meant = didYouMean(word, names);
    const text = meant === '' ? `: ${list}; see ${help}` : `${meant} See ${help}`;
    throw usageError(word === '' ? "''" : word, `there is no such command${text}`);
  }
  if (command.commands === undefined || asksFor(rest.slice(0, 1), 'help', 'h')) return { command, rest };
  return findCommand(command.commands, rest, command.name);
}

/** Options of `tsvisor` itself, which come before a command. */
const OWN_OPTIONS = ['--help', '--version', '-h', '-V'];

/** The problem with an option in the place of a command. */
function optionFirst(commands: readonly Command[], word: string, above: string, help: string): string {
  const meant = didYouMean(word, OWN_OPTIONS);
  const owner = commands.find((command) => findOption(command, word) !== undefined);
  if (owner !== undefined) return `a command comes first: tsvisor ${owner.name} ${word}; see ${help}`;
  if (above === '' && meant !== '') return `there is no such option${meant} See ${help}`;
  return `a command comes first, and then its options; see ${help}`;
}

/** Dashes of word processors and web pages, copied with an example. */
const OTHER_DASH = /^[\u2010-\u2015\u2212\ufe58\ufe63\uff0d]/;

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
    if (OTHER_DASH.test(word)) {
      problem(word, `begins with '${word[0]}', which is not the '-' of an option`);
      continue;
    }
    if (!word.startsWith('-') || word === '-') {
      positionals.push(word);
      continue;
    }
    const found = findOption(command, word);
    if (found === undefined) {
      const name = word.split('=')[0] as string;
      const [first = '', value = ''] = name.split(/\s+/);
      if (value !== '' && findOption(command, first) !== undefined) {
        problem(`'${word}'`, `is one argument: an option and its value are two, ${first} ${value}`);
        continue;
      }
      const meant = didYouMean(
        name,
        command.options.map((option) => `--${option.name}`),
      );
      const see = meant === '' ? '; see' : `${meant} See`;
      problem(name, `there is no such option${see} tsvisor ${command.name} --help`);
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

/**
 * The help of a command, at most 80 columns wide.
 * @param devices what it says of devices, if the command takes them
 */
export function helpText(
  { name, argument, summary, options, more, takesDevices = false, commands = [] }: Command,
  devices: readonly string[] = [],
): string {
  const words = commands.length > 0 ? ' COMMAND' : argument === undefined ? '' : ` ${argument}`;
  const list = commands.map((each) => row(`  ${lastWord(each)}`, each.brief));
  const sections = [summary, ...(list.length > 0 ? [list] : []), options.flatMap(optionLines)];
  const body = sections.flatMap((section) => ['', ...section]);
  const below = [...(takesDevices ? devices : []), ...more];
  return [`usage: tsvisor ${name}${words} [options]`, ...body, ...below, ''].join('\n');
}

/** The list of commands, at most 80 columns wide. */
export function overviewText(summary: string, commands: readonly Command[], more: readonly string[]): string {
  const list = commands.map((each) => row(`  ${each.name}`, each.brief));
  return [summary, '', 'usage: tsvisor COMMAND [options]', '', ...list, '', ...more, ''].join('\n');
}

const row = (head: string, text: string): string => head.padEnd(HELP_COLUMN) + text;

function optionLines({ name, short, value, isValueOptional, help }: OptionRow): string[] {
  const shown = value === undefined ? '' : isValueOptional === true ? ` [${value}]` : ` ${value}`;
  return rowLines(`  ${short === undefined ? '' : `-${short}, `}--${name}${shown}`, help);
}

/** A row of a list in the help: a long head has a line of its own. */
export function rowLines(head: string, help: readonly string[]): string[] {
  const [first = '', ...others] = help;
  const indent = ' '.repeat(HELP_COLUMN);
  const isShort = head.length < HELP_COLUMN - 1;
  return [...(isShort ? [row(head, first)] : [head, indent + first]), ...others.map((line) => indent + line)];
}
