import { readFileSync } from 'node:fs';
import { workerUrl } from '../sys/worker-url.js';
import { COMMANDS, OVERVIEW } from './cli-help.js';
import { asksFor, helpText, usageError } from './command-line.js';
import type { Output } from './output.js';

function version(): string {
  const path = workerUrl('../package.json');
  return (JSON.parse(readFileSync(path, 'utf8')) as { version: string }).version;
}

/** Runs a command. Returns the exit code. @throws ConfigError for wrong usage; the error of the command */
export async function main(args: readonly string[], out: Output): Promise<number> {
  const [name, ...rest] = args;
  if (name === '-V' || name === '--version') {
    out.line(`tsvisor ${version()}`);
    return 0;
  }
  if (name === '-h' || name === '--help' || name === 'help') {
    const about = COMMANDS.find((command) => command.name === rest[0]);
    out.line(about === undefined ? OVERVIEW.trimEnd() : helpText(about).trimEnd());
    return 0;
  }
  const names = COMMANDS.map((command) => command.name).join(' or ');
  if (name === undefined) throw usageError('', `a command is missing: ${names}; see tsvisor --help`);
  const command = COMMANDS.find((each) => each.name === name);
  if (command === undefined) throw usageError(name, `there is no such command: ${names}; see tsvisor --help`);
  if (asksFor(rest, 'help', 'h')) {
    out.line(helpText(command).trimEnd());
    return 0;
  }
  // Load only the module of the command: loading dominates the start-up time.
  if (command.name === 'serve') return (await import('./cli-serve.js')).serve(rest, out);
  return (await import('./cli-run.js')).run(rest, out);
}
