import { execFile, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { afterEach, beforeEach, expect, onTestFinished, test, vi } from 'vitest';
import { errno } from './errno.js';
import { SysError } from './error.js';
import { FuseMount } from './fuse-mount.js';
import { FUSE_OPEN, InHeader } from './fuse-protocol.js';
import { FuseTree } from './fuse-tree.js';
import { mountProblem, mountsAt } from './testing/fuse-requests.js';

vi.setConfig({ testTimeout: 120_000 });

const run = promisify(execFile);
const problem = mountProblem();
const here = realpathSync(tmpdir());
/** As mountinfo writes {@link empty}: tests that run beside these mount, too. */
const OURS = join(here, 'fuse\\040mount-');
let mounts: string[] = [];

beforeEach(({ skip }) => {
  if (problem !== undefined) skip(problem);
  mounts = mountsAt(OURS);
});
afterEach(() => {
  expect(mountsAt(OURS), 'file systems left mounted by this test').toEqual(mounts);
});

function empty(): string {
  const folder = mkdtempSync(join(here, 'fuse mount-')); // mountinfo escapes the blank
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/**
 * A mounted switch, which this thread answers for while a shell works with it. Nothing here may wait for a program that enters the
 * folder: it would wait for this thread.
 */
function world() {
  let state = 'off';
  let isServing = true;
  const folder = empty();
  const asked: number[] = [];
  class Recording extends FuseTree {
    override answer(bytes: Uint8Array) {
      asked.push(InHeader.decode(bytes).opcode);
      return super.answer(bytes);
    }
  }
  const mount = FuseMount.mount(
    folder,
    new Recording({
      kind: 'folder',
      entries: () => ({
        switch: {
          kind: 'attribute',
          read: () => `${state}\n`,
          write: (text) => {
            if (text.length > 10)
              throw new SysError({ call: 'write', target: 'switch', errno: errno.ENOSPC });
            state = text.trim();
          },
        },
        long: { kind: 'attribute', read: () => 'x'.repeat(300_000) },
        link: { kind: 'link', target: 'switch' },
      }),
    }),
  );
  /** What a shell says in the folder. */
  const shell = async (script: string): Promise<string> => {
    const child = run('bash', ['-c', `exec 2>&1\n${script}`], {
      cwd: '/',
      timeout: 10_000,
      env: { ...process.env, F: folder },
    });
    let isRunning = true;
    const ended = child.finally(() => {
      isRunning = false;
    });
    ended.catch(() => {});
    while (isRunning) {
      if (isServing) mount.step();
      await sleep(1);
    }
    return (await ended).stdout.trim();
  };
  const stop = () => {
    isServing = false;
    mount[Symbol.dispose]();
  };
  onTestFinished(stop); // before the folder is removed, which would wait for this thread
  return { folder, mount, shell, stop, asked };
}

test('a shell reads, writes, and gets the errno of an attribute', async () => {
  const { mount, shell } = world();
  using _mount = mount;
  expect(await shell('ls "$F"; cat "$F/switch"')).toBe('link\nlong\nswitch\noff');
  expect(await shell('echo on > "$F/switch"; cat "$F/link"; echo up >> "$F/link"; cat "$F/switch"')).toBe(
    'on\nup',
  );
  expect(await shell('(echo much too long > "$F/switch") ; cat "$F/switch"')).toMatch(
    /No space left on device\nup$/,
  );
  expect(await shell('(echo a > "$F/long") ; (echo a > "$F/new"); rm "$F/link"; mkdir "$F/x"; true')).toMatch(
    /^(.*(Permission denied|not permitted)\n?){4}$/,
  );
  expect(await shell('wc -c < "$F/long"; dd if="$F/long" bs=77777 2>&- | md5sum')).toBe(
    `300000\n${spawnSync('md5sum', { input: 'x'.repeat(300_000), encoding: 'utf8' }).stdout.trim()}`,
  );
});

test('after a request that takes long, the thread does its other work before the next one', async () => {
  const folder = empty();
  let inStep = 0;
  const slow = {
    kind: 'attribute',
    read: () => {
      inStep++;
      for (const end = performance.now() + 30; performance.now() < end; );
      return 'x';
    },
  } as const;
  using mount = FuseMount.mount(folder, new FuseTree({ kind: 'folder', entries: () => ({ slow }) }));
  const readers = Promise.all(Array.from({ length: 4 }, () => run('cat', [join(folder, 'slow')])));
  let isReading = true;
  void readers.finally(() => {
    isReading = false;
  });
  const most: number[] = [];
  while (isReading) {
    inStep = 0;
    mount.step();
    most.push(inStep);
    await sleep(20); // so that all of them ask meanwhile
  }
  expect((await readers).map(({ stdout }) => stdout)).toEqual(['x', 'x', 'x', 'x']);
  expect(Math.max(...most)).toBe(1);
});

test('closing a file asks nothing: this thread may be who closes one that it was sent', async () => {
  const { mount, shell, asked } = world();
  using _mount = mount;
  expect(await shell('cat "$F/switch"; echo on > "$F/switch"')).toBe('off');
  const FLUSH = 25;
  expect([asked.includes(FUSE_OPEN), asked.includes(FLUSH)]).toEqual([true, false]);
});

test('after it is closed, the folder is what it was, and a file that was open is ENOTCONN', async () => {
  const { folder, shell, stop } = world();
  const fifo = join(empty(), 'fifo');
  expect(spawnSync('mkfifo', [fifo]).status).toBe(0);
  const reader = shell(`exec 9< "$F/switch"; head -c 2 <&9; echo; cat "${fifo}"; cat <&9; true`);
  // Opening it for writing waits until the shell reads, and has opened the file before.
  const goOn = run('bash', ['-c', `exec 8> "${fifo}"; echo opened; cat`]);
  await once(goOn.child.stdout as Readable, 'data');
  stop();
  stop();
  expect(mountsAt(OURS)).toEqual(mounts);
  closeSync(openSync(folder, 'r')); // no dead file system there
  goOn.child.stdin?.end('go on\n');
  await goOn;
  expect(await reader).toMatch(
    /^of\n(.*\n)?.*(Transport endpoint is not connected|Software caused connection abort)$/,
  );
});

test('unmounted by somebody else, it says so, and unmounts nothing more', async () => {
  const { folder, mount, shell } = world();
  expect(mount.isMounted).toBe(true);
  expect(await shell('umount "$F"')).toBe('');
  mount.step();
  expect(mount.isMounted).toBe(false);
  const another = FuseMount.mount(folder, new FuseTree({ kind: 'folder', entries: () => ({}) }));
  mount[Symbol.dispose]();
  expect(another.isMounted && mountsAt(OURS)).toHaveLength(mounts.length + 1);
  another[Symbol.dispose]();
});

test('a link to a folder is followed, and leaves nothing mounted behind', () => {
  const [folder, links] = [empty(), empty()];
  symlinkSync(folder, join(links, 'link'));
  const tree = () => new FuseTree({ kind: 'folder', entries: () => ({}) });
  using first = FuseMount.mount(join(links, 'link'), tree());
  expect(first.folder).toBe(folder);
  first[Symbol.dispose]();
  expect(mountsAt(OURS)).toEqual(mounts);
  symlinkSync('loop', join(links, 'loop'));
  expect(() => FuseMount.mount(join(links, 'loop'), tree())).toThrowError(/loop: ELOOP/);
});

test('aborted, as `umount -f` does with one that is in use, it is not left there, dead', async () => {
  const { mount, shell } = world();
  using _mount = mount;
  expect(await shell('cd "$F"; umount -f "$F"; true')).toMatch(/busy/);
  mount.step();
  expect(mount.isMounted).toBe(false);
  expect(mountsAt(OURS)).toEqual(mounts);
});

test('what somebody has mounted over it stays when it is closed', async () => {
  const { folder, shell, stop } = world();
  expect(await shell('mount -t tmpfs over "$F"')).toBe('');
  try {
    stop();
    expect(spawnSync('findmnt', ['-n', '-o', 'SOURCE', folder], { encoding: 'utf8' }).stdout).toMatch(
      /over\n$/,
    );
  } finally {
    for (let i = 0; i < 2; i++) spawnSync('umount', ['-l', folder]);
  }
});

test('a folder that is none, or not empty, is refused, and nothing stays open', () => {
  const folder = empty();
  mkdirSync(join(folder, 'there'));
  writeFileSync(join(folder, 'there/file'), '');
  const mount = (path: string) => () =>
    FuseMount.mount(path, new FuseTree({ kind: 'folder', entries: () => ({}) }));
  expect(mount(join(folder, 'there'))).toThrowError(/there: ENOTEMPTY\n.*hidden: file$/);
  expect(mount(join(folder, 'not'))).toThrowError(/not: ENOENT\n.*no such folder: mkdir .*not$/);
  expect(mount(join(folder, 'not/there'))).toThrowError(/ENOENT\n.*there is no folder .*not$/);
  expect(mount(join(folder, 'there/file'))).toThrowError(/ENOTDIR/);
});
