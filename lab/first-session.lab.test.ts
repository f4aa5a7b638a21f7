/** docs/first-session.md, typed: its commands print what it says. */
import { execFileSync } from 'node:child_process';
import { chmodSync, existsSync, readFileSync, readlinkSync, symlinkSync } from 'node:fs';
import { basename } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { constant, filled, parseSession } from './session-text.js';
import { Terminal } from './terminal.js';

/** The document names it. */
const NIC = '0000:00:10.0';
const blocks = parseSession(readFileSync('docs/first-session.md', 'utf8'));
/** What is typed because tsvisor has printed it. */
const PRINTED = [/^modprobe vfio/, /^tsvisor bind /, /^tsvisor unbind .* --driver /];

describe.skipIf(process.env.LAB_E1000E !== NIC)('docs/first-session.md', () => {
  const terminals = new Map<number, Terminal>();
  /** All that was printed before the command that is typed now. */
  let printed = '';
  const typed: string[] = [];

  beforeAll(() => {
    // As a distribution does at boot, and as npm install --global does.
    execFileSync('modprobe', ['e1000e']);
    const program = `${process.cwd()}/dist/vmm/cli.js`;
    chmodSync(program, 0o755);
    symlinkSync(program, '/usr/local/bin/tsvisor');
  });
  afterAll(async () => {
    for (const terminal of terminals.values()) await terminal[Symbol.asyncDispose]();
  });

  test.each(blocks.map((block, i) => [i + 1, block.heading, block] as const))(
    'block %i, “%s”, is what the commands print',
    { timeout: 200_000 },
    async (_number, _heading, { terminal: number, exchanges }) => {
      const terminal = terminals.get(number) ?? new Terminal();
      terminals.set(number, terminal);
      for (const { where, command, answer } of exchanges) {
        if (PRINTED.some((pattern) => pattern.test(command))) {
          expect(printed, 'as printed').toContain(command);
          typed.push(command);
        }
        const lines = await terminal.enter(where, command);
        console.log([`${where === 'guest' ? '/ # ' : '# '}${command}`, ...lines].join('\n'));
        printed += `${lines.join('\n')}\n`;
        const hasCounts = command.startsWith('tsvisor ctl');
        const mask = (text: readonly string[]) => text.map((line) => constant(line, hasCounts));
        expect(mask(lines), command).toEqual(filled(mask(answer), mask(lines)));
      }
    },
  );

  test('has typed what tsvisor had printed: a module, the driver, and the way back', () => {
    expect(typed).toEqual([
      'modprobe vfio-pci',
      `tsvisor bind ${NIC}`,
      `tsvisor unbind ${NIC} --driver e1000e`,
    ]);
  });

  test('leaves the machine as it was', () => {
    const device = `/sys/bus/pci/devices/${NIC}`;
    expect(basename(readlinkSync(`${device}/driver`))).toBe('e1000e');
    expect(readFileSync(`${device}/driver_override`, 'utf8')).toBe('(null)\n');
    expect(existsSync(`${device}/net`)).toBe(true);
    expect(execFileSync('sh', ['-c', 'ls /sys/bus/mdev/devices'], { encoding: 'utf8' })).toBe('');
    expect(existsSync('/run/vm')).toBe(false);
  });
});
