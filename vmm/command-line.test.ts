import { expect, test } from 'vitest';
import { type Command, findCommand, helpText, overviewText } from './command-line.js';

const leaf = (name: string): Command => ({
  name,
  brief: `does ${name}`,
  summary: [`Does ${name}.`],
  options: [],
  more: [],
});
const COMMANDS: readonly Command[] = [
  leaf('run'),
  { ...leaf('mdev'), commands: [leaf('mdev list'), leaf('mdev create')] },
];

test('a command is found by its words, and the others are its arguments', () => {
  expect(findCommand(COMMANDS, ['run', 'a', '-b']).rest).toEqual(['a', '-b']);
  const { command, rest } = findCommand(COMMANDS, ['mdev', 'list', 'x']);
  expect([command.name, rest]).toEqual(['mdev list', ['x']]);
});

test.each([
  ['', 'a command is missing: run or mdev; see tsvisor --help'],
  ['mdev', 'mdev: a command is missing: list or create; see tsvisor mdev --help'],
  ['mdev lsit', 'lsit: there is no such command; did you mean list? See tsvisor mdev --help'],
  ['mdev remove', 'remove: there is no such command: list or create; see tsvisor mdev --help'],
])('tsvisor %s is wrong usage', (words, text) => {
  expect(() => findCommand(COMMANDS, words.split(' ').filter(Boolean))).toThrowError(text);
});

test('a command with commands lists them, where its help is asked for', () => {
  const { command } = findCommand(COMMANDS, ['mdev', '--help']);
  expect(helpText(command)).toMatch(
    /^usage: tsvisor mdev COMMAND \[options\]\n\nDoes mdev\.\n\n {2}list +does mdev list\n {2}create +does mdev create\n/,
  );
  expect(overviewText('tsvisor', COMMANDS, [])).toMatch(/\n {2}run +does run\n {2}mdev +does mdev\n/);
});
