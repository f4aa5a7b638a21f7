import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { isErrno } from '../../../sys/error.js';
import { bootGuest, type GuestOptions } from './guest.js';
import type { GuestError } from './guest-error.js';
import { moduleEntries } from './kernel-modules.js';
import { findBusybox, findKernel, findQemu, kernelRelease } from './programs.js';
import { TextTail } from './text-tail.js';

/** The least static program: a header of ELF64 without program headers. */
const STATIC = Buffer.concat([Buffer.from('\u007fELF\u0002', 'latin1'), Buffer.alloc(59)]);

/** A program in place of QEMU: it takes the same arguments, and runs the commands itself. */
const FAKE = (behaviour: string): string => `#!${process.execPath}
const { spawnSync } = require('node:child_process');
const { connect } = require('node:net');
const path = /path=(.*)/.exec(process.argv.find((word) => word.startsWith('socket,id=line')))[1];
const say = (text) => process.stdout.write(text);
const line = connect(path);
const ready = () => line.write('\\x1eready\\n');
let buffer = '';
const run = (text) => {
  const { status, stdout, stderr } = spawnSync('sh', ['-c', text]);
  return { status, output: Buffer.concat([stdout, stderr]) };
};
line.on('data', (bytes) => {
  buffer += bytes;
  for (let end; (end = buffer.indexOf('\\n')) >= 0; buffer = buffer.slice(end + 1)) {
    const [word, command] = buffer.slice(0, end).split(' ');
    answer(word, Buffer.from(command, 'base64').toString());
  }
});
function answer(word, command) {
  const { status, output } = run(command);
  line.write(output);
  line.write('\\x1e' + word + ' ' + status + '\\n');
}
${behaviour}
`;

class Folder implements Disposable {
  readonly path = mkdtempSync(join(tmpdir(), 'tsvisor-test-'));

  write(name: string, data: string | Uint8Array, mode = 0o644): string {
    const path = join(this.path, name);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, data);
    chmodSync(path, mode);
    return path;
  }

  /** What a guest is made of, with a program for QEMU. */
  options(behaviour: string): GuestOptions {
    return {
      qemu: this.write('qemu', FAKE(behaviour), 0o755),
      kernel: this.write('kernel', ''),
      busybox: this.write('busybox', STATIC),
    };
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true });
  }
}

const failure = (promise: Promise<unknown>): Promise<GuestError> =>
  promise.then(
    () => expect.unreachable('it did not fail'),
    (error: GuestError) => error,
  );

const folders = (): string[] => readdirSync(tmpdir()).filter((name) => name.startsWith('tsvisor-guest-'));

describe('a guest', () => {
  test('runs commands one after the other, with status and output of each', async () => {
    using folder = new Folder();
    const before = folders();
    {
      await using guest = await bootGuest(folder.options('say("hello\\r\\n"); line.on("connect", ready);'));
      const results = [
        guest.run('echo one; exit 3'),
        guest.run('printf two >&2'),
        guest.run("printf '\\036x 5\\n'"),
      ];
      expect(await Promise.all(results)).toEqual([
        { status: 3, output: 'one\n' },
        { status: 0, output: 'two' },
        { status: 0, output: '\u001ex 5\n' },
      ]);
      await guest.says('hello');
      expect(guest.console).toBe('hello\n');
    }
    expect(folders()).toEqual(before);
  });

  test('whose command takes too long is described, and what that prints later belongs to no other', async () => {
    using folder = new Folder();
    const slowly = `line.on('connect', ready);
      let held;
      const now = answer;
      answer = (word, command) => {
        if (command !== 'hold') { if (held) now(held, 'echo late'); held = undefined; now(word, command); return; }
        held = word; line.write('half'); say('console text\\n');
      };`;
    await using guest = await bootGuest(folder.options(slowly));
    const error = await failure(guest.run('hold', { timeoutMs: 1500 }));
    expect(error).toMatchObject({ name: 'GuestError', reason: 'timeout', spins: [] });
    expect(error.message).toBe(
      "run 'hold': not done after 1500 ms\n  output, last lines:\n    half\n  console, last lines:\n    console text",
    );
    expect(await guest.run('echo next')).toEqual({ status: 0, output: 'next\n' });
  });

  test('that panics is told by its oops and the panic; later commands fail at once', async () => {
    using folder = new Folder();
    const panics = `line.on('connect', ready);
      answer = () => { say('BUG: kernel NULL pointer\\nRIP: 0010:probe+0x1\\nKernel panic - not syncing: Fatal exception\\n',); setTimeout(() => process.exit(0), 50); };`;
    await using guest = await bootGuest(folder.options(panics));
    const error = await failure(guest.run('modprobe x'));
    expect(error.reason).toBe('panicked');
    expect(error.message).toContain(
      "run 'modprobe x': the guest panicked: Fatal exception\n  oops, first lines:\n    BUG: kernel NULL pointer\n    RIP: 0010:probe+0x1",
    );
    expect((await failure(guest.run('true'))).reason).toBe('panicked');
  });

  test('that ends before it is ready leaves nothing behind, and QEMU has its say', async () => {
    using folder = new Folder();
    const before = folders();
    const error = await failure(
      bootGuest(
        folder.options('process.stderr.write("no such machine\\n"); process.exitCode = 2; line.destroy();'),
      ),
    );
    expect(error.message).toBe('boot: the guest ended, QEMU by status 2\n  QEMU:\n    no such machine');
    expect(folders()).toEqual(before);
  });

  test('that is not ready in time says so', async () => {
    using folder = new Folder();
    const error = await failure(bootGuest({ ...folder.options(''), timeoutMs: 700 }));
    expect(error.message).toMatch(/^boot: not done after \d+ ms$/);
  });

  test('with an init of its own takes no commands, and its end is seen', async () => {
    using folder = new Folder();
    const options = folder.options('say("on my own\\n"); setTimeout(() => { line.destroy(); }, 300);');
    await using guest = await bootGuest({ ...options, init: '#!/bin/own\n', busybox: '/nonexistent' });
    await guest.says('on my own');
    await expect(guest.run('true')).rejects.toThrow('takes no commands');
    expect(await guest.ended).toEqual({ status: 0, signal: null });
    expect((await failure(guest.says('more'))).reason).toBe('ended');
  });

  test('under a QEMU without vfio-user is refused with its version', async () => {
    using folder = new Folder();
    const old = `if (process.argv.includes('--version')) { say('QEMU emulator version 7.2.0\\n'); process.exit(0); }
      process.stderr.write("qemu: 'vfio-user-pci' is not a valid device model name\\n"); process.exit(1);`;
    const options = folder.options('');
    const qemu = folder.write(
      'old',
      `#!${process.execPath}\nconst say = (text) => process.stdout.write(text);\n${old}`,
      0o755,
    );
    const error = await failure(bootGuest({ ...options, qemu }));
    expect(isErrno(error, 'ENOTSUP')).toBe(true);
    expect(error.message).toContain(
      'QEMU emulator version 7.2.0 has no vfio-user-pci: install QEMU 10.1 or newer',
    );
  });
});

describe('what a guest is made of', () => {
  test.each<[string, string, () => unknown]>([
    ['QEMU that is not there', 'ENOENT', () => findQemu('/nonexistent/qemu')],
    ['QEMU that is not in PATH', 'ENOENT', () => findQemu(['no-such-qemu', '-L', '/'])],
    ['kernel that is not there', 'ENOENT', () => findKernel('/nonexistent/vmlinuz')],
    ['busybox that is not there', 'ENOENT', () => findBusybox('/nonexistent/busybox')],
    ['busybox that needs libraries', 'ENOEXEC', () => findBusybox('/bin/sh')],
    ['busybox that is a text', 'ENOEXEC', () => findBusybox('/etc/passwd')],
  ])('a %s is refused with %s, and what to do', (_what, code, find) => {
    expect(find).toThrow(
      expect.objectContaining({ code, hint: expect.stringMatching(/install |name a kernel/) }),
    );
  });

  test('the release is read from a bzImage, and from an ELF kernel', () => {
    using folder = new Folder();
    const image = Buffer.alloc(0x1000);
    image.write('HdrS', 0x202);
    image.writeUInt16LE(0x400, 0x20e);
    image.write('6.12.95+deb13-amd64 (builder@debian) #1', 0x600);
    expect(kernelRelease(folder.write('vmlinuz', image))).toBe('6.12.95+deb13-amd64');
    const elf = Buffer.concat([
      STATIC,
      Buffer.alloc(100_000),
      Buffer.from('Linux version 7.0.1-x (builder) #1'),
    ]);
    expect(kernelRelease(folder.write('vmlinux', elf))).toBe('7.0.1-x');
    expect(kernelRelease(folder.write('text', 'no kernel'))).toBeUndefined();
  });

  test('modules come uncompressed, with what they need and an index; what is built in has no file', () => {
    using folder = new Folder();
    folder.write(
      'modules.dep',
      'kernel/a/one-x.ko: kernel/b/two.ko.gz\nkernel/b/two.ko.gz:\nkernel/c/three.ko:\n',
    );
    folder.write('modules.builtin', 'kernel/d/four.ko\n');
    folder.write('kernel/a/one-x.ko', 'ONE');
    folder.write('kernel/b/two.ko.gz', gzipSync('TWO'));
    const entries = moduleEntries(folder.path, '6.1', ['one_x', 'four'], '/nonexistent');
    expect(entries.map(({ path, data }) => [path, Buffer.from(data ?? []).toString()])).toEqual([
      ['lib/modules/6.1/modules.dep', 'one_x.ko: two.ko\ntwo.ko:\n'],
      ['lib/modules/6.1/modules.builtin', 'kernel/d/four.ko\n'],
      ['lib/modules/6.1/one_x.ko', 'ONE'],
      ['lib/modules/6.1/two.ko', 'TWO'],
    ]);
    expect(() => moduleEntries(folder.path, '6.1', ['five'], '')).toThrow(
      /five: ENOENT\n {2}hint: kernel 6.1 has no such module/,
    );
    expect(() => moduleEntries(join(folder.path, 'kernel'), '6.1', ['five'], '')).toThrow(/depmod/);
    folder.write('modules.dep', 'broken.ko.xz:\n');
    folder.write('broken.ko.xz', 'no archive');
    expect(() => moduleEntries(folder.path, '6.1', ['broken'], '/bin/false')).toThrow(
      /EIO\n.*does not unpack it/,
    );
  });

  test('sixteen devices are refused before anything starts', async () => {
    const before = folders();
    const devices = Array.from({ length: 16 }, () => ({
      driver: { name: 'x', types: [], create: () => expect.unreachable() },
    }));
    await expect(bootGuest({ devices, qemu: '/nonexistent' })).rejects.toThrow('a guest has slots for 15');
    expect(existsSync('/nonexistent') || folders().length > before.length).toBe(false);
  });
});

test('of a long text, the end is kept, and the beginning is counted', () => {
  const tail = new TextTail();
  for (let i = 0; i < 40; i++) tail.add(`${'x'.repeat(99_999)}\n`);
  tail.add('last\r\n\n');
  expect(tail.text.length).toBeLessThanOrEqual(2 << 20);
  expect(tail.text.length + tail.dropped).toBe(4_000_007);
  expect(tail.lines(1)).toEqual(['last']);
});
