/** Commands that print what is made from the table of commands. */

import { didYouMean } from '../sys/suggestion.js';
import { COMMANDS } from './cli-help.js';
import { findCommand, parseCommandLine, usageError } from './command-line.js';
import { completionScript, SHELLS } from './completion.js';
import { manualPage } from './manual-page.js';
import type { Output } from './output.js';
import { shown } from './problem-text.js';

/** Runs `tsvisor completion SHELL` or `tsvisor man`. Returns the exit code. @throws ConfigError for wrong usage */
export function printText(name: string, args: readonly string[], version: string, out: Output): number {
  const { command } = findCommand(COMMANDS, [name]);
  const [word, ...others] = parseCommandLine(command, args).positionals;
  const isMan = name === 'man';
  if (others.length > 0 || (isMan && word !== undefined))
    throw usageError(name, isMan ? 'takes no argument' : `takes one shell: ${SHELLS.join(', ')}`);
  if (isMan) {
    out.write(manualPage(COMMANDS, version));
    return 0;
  }
  if (word === undefined) throw usageError(name, `needs a shell: ${SHELLS.join(', ')}`);
  const shell = SHELLS.find((each) => each === word);
  if (shell === undefined) {
    const text = `${shown(word)} is not one of ${SHELLS.join(', ')}${didYouMean(word, SHELLS)}`;
    throw usageError(name, text);
  }
  out.write(completionScript(shell, COMMANDS));
  return 0;
}
