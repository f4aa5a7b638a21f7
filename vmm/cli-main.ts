import { COMMANDS, OVERVIEW } from './cli-help.js';
import { asksFor, type Command, findCommand, helpText } from './command-line.js';
import type { Output } from './output.js';
import { version } from './version.js';

/** Runs a command. Returns the exit code. @throws ConfigError for wrong usage; the error of the command */
export async function main(args: readonly string[], out: Output): Promise<number> {
  const [name, ...rest] = args;
  if (name === '-V' || name === '--version') {
    out.line(`tsvisor ${version()}`);
    return 0;
  }
  if (name === '-h' || name === '--help' || name === 'help') {
    out.line((rest.length === 0 ? OVERVIEW : await help(about(rest))).trimEnd());
    return 0;
  }
  const { command, rest: given } = findCommand(COMMANDS, args);
  if (asksFor(given, 'help', 'h')) {
    out.line((await help(command)).trimEnd());
    return 0;
  }
  return runCommand(command.name, given, out);
}

/** Loads only the module of the command: loading dominates the start-up time. */
async function runCommand(name: string, given: readonly string[], out: Output): Promise<number> {
  switch (name) {
    case 'serve':
      return (await import('./cli-serve.js')).serve(given, out);
    case 'ctl':
      return (await import('./api/cli-ctl.js')).ctl(given, out);
    case 'check':
      return (await import('./cli-check.js')).check(given, out);
    case 'conform':
      return (await import('./cli-conform.js')).conform(given, out);
    case 'devices':
      return (await import('./cli-devices.js')).devices(given, out);
    case 'types':
      return (await import('./cli-types.js')).types(given, out);
    case 'mdev list':
    case 'mdev create':
    case 'mdev remove':
      return (await import('./cli-mdev.js')).mdev(name, given, out);
    case 'bind':
      return (await import('./cli-bind.js')).bind(given, out);
    case 'unbind':
      return (await import('./cli-bind.js')).unbind(given, out);
    case 'completion':
    case 'man':
      return (await import('./cli-text.js')).printText(name, given, version(), out);
    default:
      return (await import('./cli-run.js')).run(given, out);
  }
}

/** The devices are loaded for a command that takes some. */
async function help(command: Command): Promise<string> {
  if (command.takesDevices !== true) return helpText(command);
  return helpText(command, (await import('./cli-device-help.js')).DEVICE_HELP);
}

/** `help serve`, `help mdev`. @throws ConfigError if there is no such command */
const about = (words: readonly string[]) => findCommand(COMMANDS, [...words, '--help']).command;
