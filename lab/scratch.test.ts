import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Scratch } from './scratch.js';

let parent: string;
beforeEach(() => {
  parent = mkdtempSync(join(tmpdir(), 'tsvisor-scratch-'));
});
afterEach(() => rmSync(parent, { recursive: true }));

describe('Scratch', () => {
  test('is a folder of its own until it is disposed', () => {
    const [one, other] = [Scratch.create(parent), Scratch.create(parent)];
    expect(readdirSync(parent)).toHaveLength(2);
    one[Symbol.dispose]();
    expect(existsSync(one.folder)).toBe(false);
    expect(existsSync(other.folder)).toBe(true);
    other[Symbol.dispose]();
    expect(readdirSync(parent)).toEqual([]);
  });

  test('removes what a killed process left, and nothing else', async () => {
    const child = spawn('sleep', ['100']);
    child.kill('SIGKILL');
    await once(child, 'exit');
    const folders = ['tsvisor-lab-killed', 'tsvisor-lab-new', 'tsvisor-else'];
    for (const name of folders) mkdirSync(join(parent, name));
    for (const name of ['tsvisor-lab-killed', 'tsvisor-else'])
      writeFileSync(join(parent, name, 'owner'), `${readlinkSync('/proc/self/ns/pid')} ${child.pid} 1`);
    using scratch = Scratch.create(parent);
    expect(readdirSync(parent).map((name) => join(parent, name))).toEqual(
      expect.arrayContaining([scratch.folder, join(parent, 'tsvisor-lab-new'), join(parent, 'tsvisor-else')]),
    );
    expect(existsSync(join(parent, 'tsvisor-lab-killed'))).toBe(false);
  });
});
