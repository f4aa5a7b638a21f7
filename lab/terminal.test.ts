import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { Terminal } from './terminal.js';

test('a command prints until the next prompt, and leaves its status and what it has set', async () => {
  await using terminal = new Terminal();
  expect(await terminal.enter('host', 'echo a; echo b >&2; name=x; false')).toEqual(['a', 'b']);
  expect(await terminal.enter('host', 'echo $? $name')).toEqual(['1 x']);
  expect(await terminal.enter('host', 'echo 1 \\\n  2')).toEqual(['1 2']);
});

test('a program that has a prompt of its own gets what is typed, until it ends', async () => {
  await using terminal = new Terminal();
  const guest =
    'printf \'up\\n\\033[6n/ # \'; read -r line; printf "$line\\r\\nyou said $line\\n/ # "; read -r line; echo down';
  expect(await terminal.enter('host', guest)).toEqual(['up']);
  expect(await terminal.enter('guest', 'hello')).toEqual(['you said hello']);
  expect(await terminal.enter('guest', 'poweroff')).toEqual(['down']);
  expect(await terminal.enter('host', 'echo again')).toEqual(['again']);
});

test('a shell that ends is an error', async () => {
  await using terminal = new Terminal();
  await expect(terminal.enter('host', 'exit 3')).rejects.toThrow("the shell ended by 'exit 3'");
});

test('its programs end with it', async () => {
  const terminal = new Terminal();
  const [pid] = await terminal.enter('host', 'sleep 100 & echo $!');
  await terminal[Symbol.asyncDispose]();
  await expect.poll(() => isThere(Number(pid))).toBe(false);
});

/** A dead process that nobody has waited for has no command line. */
function isThere(pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'latin1') !== '';
  } catch {
    return false;
  }
}
