/** The manual page, made from the table of commands. */
import { DEVICES, deviceNames } from './cli-device-help.js';
import { EXAMPLES } from './cli-help.js';
import type { Command, OptionRow } from './command-line.js';

/** Not every roff takes UTF-8. */
const codePoint = (letter: string) =>
  `\\[u${(letter.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, '0')}]`;

/** A dash that can be copied, and no request at the start of a line. */
const escaped = (text: string) =>
  text
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .replaceAll(/^([.'])/gm, '\\&$1')
    .replaceAll(/[^\x20-\x7e\n]/g, codePoint);

const paragraph = (lines: readonly string[]) => escaped(lines.join(' ').trim());

function optionLines({ name, short, value, isValueOptional, help }: OptionRow): string[] {
  const shown =
    value === undefined ? '' : isValueOptional === true ? ` [\\fI${value}\\fR]` : ` \\fI${value}\\fR`;
  const names = [...(short === undefined ? [] : [`-${short}`]), `--${name}`];
  return ['.TP', names.map((each) => `\\fB${escaped(each)}\\fR`).join(', ') + shown, paragraph(help)];
}

/** What is below the options of a command: text as a paragraph, an indented list line by line. */
function ownLines({ more }: Command): string[] {
  const lines = more.filter((line) => line !== '');
  const isListed = (line: string | undefined) => line?.startsWith('  ') === true;
  return lines.flatMap((line, i) => {
    const isSame = i > 0 && isListed(line) === isListed(lines[i - 1]);
    const begin = isSame ? [] : isListed(line) ? ['.PP', '.nf'] : [...(i > 0 ? ['.fi'] : []), '.PP'];
    const isLast = i === lines.length - 1;
    return [...begin, escaped(line), ...(isLast && isListed(line) ? ['.fi'] : [])];
  });
}

function commandLines(command: Command): string[] {
  const { name, argument = '', summary, options, commands = [] } = command;
  const own = ownLines(command);
  return [
    `.SS "tsvisor ${escaped(name)}${argument === '' ? '' : ` ${escaped(argument)}`}"`,
    paragraph(summary),
    ...(commands.length > 0 ? [] : options.flatMap(optionLines)),
    ...own,
    ...commands.flatMap(commandLines),
  ];
}

/** In roff: `tsvisor man | man -l -` shows it. */
export function manualPage(commands: readonly Command[], version: string): string {
  return [
    `.TH TSVISOR 1 "" "tsvisor ${version}" "User Commands"`,
    '.SH NAME',
    'tsvisor \\- assign devices to virtual machines',
    '.SH SYNOPSIS',
    '\\fBtsvisor\\fR \\fICOMMAND\\fR [\\fIoptions\\fR]',
    '.SH COMMANDS',
    ...commands.flatMap(commandLines),
    '.SH DEVICES',
    'A device is an address with options, separated by commas.',
    ...DEVICES.flatMap((row) => ['.TP', `\\fB${escaped(deviceNames(row))}\\fR`, paragraph(row.help)]),
    '.SH EXAMPLES',
    '.nf',
    ...EXAMPLES.map((line) => escaped(line.trim())),
    '.fi',
    '',
  ].join('\n');
}
