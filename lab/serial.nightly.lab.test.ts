/** A Linux guest at four serial ports: a person logs in at a terminal, and programs use the others. */
import { createHash } from 'node:crypto';
import { appendFileSync, copyFileSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, expect, test } from 'vitest';
import { cpio, S_IFREG } from '../devices/testing/guest/cpio.js';
import { atTerminal, openTerminal } from '../vmm/testing/terminal.js';
import { inL1 } from './images.js';
import { labFolder } from './paths.js';

const folder = mkdtempSync(join(tmpdir(), 'serial-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** Beyond what the guest's tty layer holds, 64 KiB: all of it is there only if the guest's pace is kept. */
const PASTE_BYTES = 72 << 10;
/** On this machine in software, each byte costs two exits. */
const PASTE_MS = 400_000;
const PROMPT = '/root # ';

/** L2's programs with another first one. */
function initrd(): string {
  const path = join(folder, 'initrd');
  copyFileSync(inL1.initrd, path);
  const data = readFileSync(join(labFolder, 'l2/serial.sh'));
  appendFileSync(path, cpio([{ path: 'serial', mode: S_IFREG | 0o755, data }]));
  return path;
}

/** Printable, and no Ctrl-A among it. */
const paste = () =>
  Buffer.from(Uint8Array.from({ length: PASTE_BYTES }, (_, i) => 0x20 + ((i * 7 + (i >> 8)) % 95)));

test('a person logs in at COM1, COM2 to COM4 are apart from it, a large paste arrives whole', {
  timeout: 590_000,
}, async () => {
  const [socket, log] = [join(folder, 'com3'), join(folder, 'com4')];
  const ends = ['stdio', 'pty', `unix:${socket}`, `file:${log}`];
  const files = ['--kernel', inL1.kernel, '--initrd', initrd(), '--memory', '256M'];
  using person = atTerminal([
    'dist/vmm/cli.js',
    'run',
    ...files,
    ...['--device', 'none', '--no-reboot', '--log-level', 'info'],
    ...ends.flatMap((end) => ['--serial', end]),
    '--append',
    'console=ttyS0 quiet panic=-1 nokaslr mitigations=off nowatchdog random.trust_cpu=on rdinit=/serial',
  ]);
  const { screen } = person;
  const enter = async (line: string) => {
    await screen.types(`${line}\r`);
    await screen.says(line);
  };
  const output = async () => (await screen.says(PROMPT)).trim();

  await screen.says('login: ', 120_000);
  await enter('root');
  await output();
  await enter('tty; stty rows 50 cols 132; stty size; echo $((6 * 7))');
  expect(await output()).toBe('/dev/ttyS0\r\n50 132\r\n42');

  // Keys that are signals are the guest's, not ours: once the command runs, as the line editor takes them for letters.
  await enter("echo s''tarted; sleep 1000");
  await screen.says('started');
  await sleep(2000);
  await screen.types('\x03');
  await screen.says(PROMPT);
  await enter('echo status $?');
  expect(await output()).toBe('status 130');

  // Ctrl-A Ctrl-A is one for the guest: its line editor goes to the beginning of the line.
  await screen.types('cho begun\x01\x01e\r');
  expect(await output()).toMatch(/\nbegun$/);
  await screen.types('\x01h');
  await expect.poll(person.errors, { timeout: 20_000 }).toMatch(/Ctrl-A x {2}end the machine/);

  const [, terminal = ''] = /(\/dev\/pts\/\d+)/.exec(person.errors()) ?? [];
  using second = openTerminal(terminal);
  await second.types('over the terminal\n');
  await second.says('ttyS1 heard over the terminal');
  const third = createConnection(socket);
  let heard = '';
  third.on('data', (piece) => {
    heard += String(piece);
  });
  third.write('over the socket\n');
  await expect.poll(() => heard, { timeout: 20_000 }).toBe('ttyS2 heard over the socket\n');
  third.destroy();
  await enter('echo to the file > /dev/ttyS3');
  await output();
  expect(readFileSync(log, 'latin1')).toBe('to the file\r\n');
  await enter('grep -c 16550A /proc/tty/driver/serial');
  expect(await output()).toBe('4');

  const bytes = paste();
  const start = performance.now();
  await enter(`stty raw -echo; echo a''ctive; head -c ${PASTE_BYTES} | md5sum; stty sane`);
  await screen.says('active');
  await screen.types(bytes);
  const sum = createHash('md5').update(bytes).digest('hex');
  expect((await screen.says('  -', PASTE_MS)).trim()).toBe(sum);
  console.log(`${PASTE_BYTES} bytes pasted in ${((performance.now() - start) / 1000).toFixed(1)} s`);
  await screen.says(PROMPT);
  await enter('cat /proc/tty/driver/serial');
  expect(await output()).not.toMatch(/[a-z]e:|oe:/); // framing errors, breaks, overruns

  expect(person.mode()).not.toBe(person.before);
  await screen.types('\x01x');
  expect(await person.ended).toEqual([0, null]);
  expect(person.mode()).toBe(person.before);
});
