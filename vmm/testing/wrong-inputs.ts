/** For tests: wrong inputs of the command line, and what is said of them. None of them needs /dev/kvm. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { errorLines, errorStatus } from '../cli-error.js';
import { main } from '../cli-main.js';
import { Output } from '../output.js';

/** Arguments, and the lines on stderr. `@name` is a file of the folder. */
export type Row = readonly [args: string, lines: string | RegExp];

/** The first row of a command loads it. */
const LOADING_MS = 90_000;

/** By name of a file: its text. */
export type Files = Readonly<Record<string, string>>;

/**
 * Tests that each row is wrong usage, in words of ours.
 * @param tables by what the rows are about
 * @param files in the folder besides `file`, `directory`, `huge`, `fifo`
 */
export function testWrongInputs(tables: Readonly<Record<string, readonly Row[]>>, files: Files = {}): void {
  const folder = mkdtempSync(join(tmpdir(), 'tsvisor-inputs-'));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  const at = (name: string) => join(folder, name);

  beforeAll(() => {
    for (const [name, text] of Object.entries({ file: 'text', ...files }))
      writeFileSync(at(name), text, name.startsWith('utf16') ? 'utf16le' : 'utf8');
    mkdirSync(at('directory'));
    writeFileSync(at('huge'), '');
    truncateSync(at('huge'), 2 ** 31);
    writeFileSync(at('nothing.mjs'), '');
    expect(spawnSync('mkfifo', [at('fifo')]).status).toBe(0);
  });

  describe.each(Object.entries(tables))('%s', (_name, rows) => {
    test.each(rows)('tsvisor %s is wrong usage', { timeout: LOADING_MS }, async (args, lines) => {
      const { status, stderr } = await refusal(args, folder);
      if (lines instanceof RegExp) expect(stderr).toMatch(lines);
      else
        expect(stderr).toBe(
          `${lines.replace(/(^|\|(?=--))/g, (bar) => (bar === '' ? 'tsvisor: ' : '\ntsvisor: '))}\n`,
        );
      expect(status).toBe(64);
      // Words of the parser or the validator, of Node, or of the type system.
      expect(stderr).not.toMatch(
        /Invalid|received|expected (number|string)|undefined|Cannot read|\n +at |positional/,
      );
      // What moves a terminal's cursor, or fills its screen.
      expect(stderr.replaceAll('\n', '')).not.toMatch(/\p{Cc}/u);
      for (const line of stderr.split('\n')) expect(line.length).toBeLessThan(600);
    });
  });
}

/** As a shell splits them; quotes keep spaces and empty words. */
const words = (args: string): string[] =>
  [...args.matchAll(/'([^']*)'|(\S+)/g)].map(([, quoted, plain]) => quoted ?? plain ?? '');

/** One for all rows, as it listens to the stream. */
const stdout = new Output();

/** @returns the status and what is printed on stderr; nothing is started for any of the rows */
async function refusal(args: string, folder: string): Promise<{ status: number; stderr: string }> {
  try {
    await main(words(args.replaceAll('@', `${folder}/`)), stdout);
  } catch (error) {
    const stderr = errorLines(error).join('\n').replaceAll(`${folder}/`, '@');
    return { status: errorStatus(error), stderr: `${stderr}\n` };
  }
  throw new Error(`tsvisor ${args} was accepted`);
}

export const NUMBER_OF_CPUS = (text: string) => `--cpus: '${text}' is not a number of CPUs, 1 to 64`;
export const SIZE = (text: string) => `--memory: '${text}' is not a size; write 64M, 1G or a number of bytes`;
export const PORT = (text: string) => `--view: '${text}' is not a TCP port: 0 to 65535`;
export const NO_OPTION = (name: string, command = 'run') =>
  `${name}: there is no such option; see tsvisor ${command} --help`;
