import { chmodSync, chownSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { Fd } from '../sys/fd.js';
import { Kvm } from './system.js';

const isRoot = process.getuid?.() === 0;
const NOBODY = 65_534;
const groups = readFileSync('/etc/group', 'utf8')
  .split('\n')
  .map((line) => line.split(':'))
  .map(([name, , gid]) => ({ name, gid: Number(gid) }))
  .filter(({ gid }) => gid > 0 && gid !== NOBODY);
const [first, last] = [groups.at(0), groups.at(-1)];
/** A number that no group has. */
const NAMELESS = 4_711_471;

/** What opening a device with this mode and group tells a user who is neither its owner nor in its group. */
function refusal(mode: number, gid: number): { readonly path: string; readonly message: string } {
  const folder = mkdtempSync(join(tmpdir(), 'tsvisor-kvm-'));
  try {
    chmodSync(folder, 0o755);
    const path = join(folder, 'kvm');
    writeFileSync(path, '');
    chownSync(path, 0, gid);
    chmodSync(path, mode);
    return { path, message: messageAsNobody(path) };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function messageAsNobody(path: string): string {
  const supplementary = process.getgroups?.() ?? [];
  process.setgroups?.([]);
  process.setegid?.(NOBODY);
  process.seteuid?.(NOBODY);
  try {
    Kvm.open(path);
    throw new Error('it was opened');
  } catch (error) {
    return (error as Error).message;
  } finally {
    process.seteuid?.(0);
    process.setegid?.(0);
    process.setgroups?.(supplementary);
  }
}

test.skipIf(!isRoot).each([
  { mode: 0o660, gid: first?.gid, group: first?.name },
  { mode: 0o660, gid: last?.gid, group: last?.name },
  { mode: 0o664, gid: first?.gid, group: first?.name },
  { mode: 0o660, gid: NAMELESS, group: String(NAMELESS) },
])(
  'a device that is there for group $gid asks to join $group (skipped unless root)',
  ({ mode, gid = 0, group }) => {
    const { path, message } = refusal(mode, gid);
    expect(message).toBe(
      `open on ${path}: EACCES\n  hint: join the group ${group} (usermod -aG ${group} "$USER", then log in again)`,
    );
  },
);

test.skipIf(!isRoot).each([
  { mode: 0o600, gid: first?.gid, group: first?.name, text: '600' },
  { mode: 0o640, gid: first?.gid, group: first?.name, text: '640' },
  { mode: 0o620, gid: NAMELESS, group: String(NAMELESS), text: '620' },
  { mode: 0o660, gid: 0, group: 'root', text: '660' },
  { mode: 0o040, gid: 0, group: 'root', text: '040' },
  { mode: 0o4600, gid: 0, group: 'root', text: '600' },
])(
  'a device of group $gid with mode $text asks for another group and mode (skipped unless root)',
  ({ mode, gid = 0, group, text }) => {
    const { path, message } = refusal(mode, gid);
    expect(message).toContain(`belongs to user 0 and group ${group}, with mode ${text}: `);
    expect(message).toContain(`\`chgrp kvm ${path}\` and \`chmod 660 ${path}\``);
  },
);

test.skipIf(!isRoot)('a path that leads through a closed folder is said to (skipped unless root)', () => {
  const folder = mkdtempSync(join(tmpdir(), 'tsvisor-kvm-'));
  try {
    chmodSync(folder, 0o755);
    mkdirSync(join(folder, 'closed'), { mode: 0o700 });
    const path = join(folder, 'closed', 'kvm');
    expect(messageAsNobody(path)).toMatch(/^open on .*: EACCES\n {2}hint: .* folder of the path$/);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('the owner of the system descriptor closes it', () => {
  const kvm = Kvm.adopt(Fd.eventfd('/dev/kvm'));
  expect(kvm.fd.isOpen).toBe(true);
  kvm[Symbol.dispose]();
  expect(kvm.fd.isOpen).toBe(false);
});

test('what is wrong with the path itself is no error of the device', () => {
  expect(() => Kvm.open('/dev/\0kvm')).toThrowError(TypeError);
});
