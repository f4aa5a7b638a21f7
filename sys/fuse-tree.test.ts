import { expect, test } from 'vitest';
import { errno } from './errno.js';
import { SysError } from './error.js';
import * as fuse from './fuse-protocol.js';
import { type FuseFolder, type FuseNode, FuseTree } from './fuse-tree.js';
import { fuseRequest, nameBytes } from './testing/fuse-requests.js';
import { checkHeaders } from './testing/header-check.js';
import { diceOf } from './testing/random.js';

const SEED = Number(process.env.TSVISOR_FUZZ_SEED ?? Date.now() & 0x7fff_ffff);
const NONE = new Uint8Array(0);
const O_WRONLY = 1;

/** A folder with a counter that each reading raises, a switch, a link, and a folder that comes and goes. */
function world() {
  const written: [string, number][] = [];
  const faults: unknown[] = [];
  let count = 0;
  let extra: Readonly<Record<string, FuseNode>> = {};
  const entries = (): Readonly<Record<string, FuseNode>> => ({
    counter: { kind: 'attribute', read: () => `${++count}`.repeat(3) },
    switch: {
      kind: 'attribute',
      read: () => 'off\n',
      write: (text, pid) => {
        if (text === 'full\n') throw new SysError({ call: 'write', target: 'switch', errno: errno.ENOSPC });
        if (text === 'bug\n') throw new TypeError('a bug of the node');
        written.push([text, pid]);
      },
    },
    link: { kind: 'link', target: '../elsewhere' },
    ...extra,
  });
  const tree = new FuseTree({ kind: 'folder', entries }, (error) => faults.push(error));
  /** The errno, and what is behind the header. */
  const ask = (opcode: number, node: number, body: Uint8Array = NONE, len?: number) => {
    const answer = tree.answer(fuseRequest(opcode, node, body, len));
    if (answer === undefined) return undefined;
    const { len: length, error, unique } = fuse.OutHeader.decode(answer);
    expect([length, unique]).toEqual([answer.length, 7n]);
    return { errno: Math.abs(error), body: answer.subarray(fuse.OutHeader.size) };
  };
  const body = (...parameters: Parameters<typeof ask>): Uint8Array => {
    const answer = ask(...parameters);
    expect(answer?.errno).toBe(0);
    return answer?.body as Uint8Array;
  };
  const find = (name: string, folder = fuse.FUSE_ROOT_ID) =>
    Number(fuse.EntryOut.decode(body(fuse.FUSE_LOOKUP, folder, nameBytes(name))).nodeid);
  const open = (node: number, opcode = fuse.FUSE_OPEN, flags = 0) =>
    fuse.OpenOut.decode(body(opcode, node, fuse.OpenIn.encode({ flags }))).fh;
  const read = (node: number, fh: bigint, offset: number, size: number, opcode = fuse.FUSE_READ) =>
    body(opcode, node, fuse.ReadIn.encode({ fh, offset: BigInt(offset), size }));
  const write = (node: number, fh: bigint, text: string, size = text.length) => {
    const bytes = fuse.WriteIn.encode({ fh, size, offset: 99n }, text.length);
    bytes.set(Buffer.from(text), fuse.WriteIn.size);
    return ask(fuse.FUSE_WRITE, node, bytes);
  };
  const set = (more: typeof extra) => {
    extra = more;
  };
  return { tree, ask, body, find, open, read, write, written, faults, set };
}

/** Names in the answer to READDIR, and the offset to go on from. */
function names(body: Uint8Array): { readonly names: string[]; readonly next: number } {
  const found: string[] = [];
  let next = 0;
  for (let at = 0; at < body.length; ) {
    const { off, namelen } = fuse.Dirent.decode(body, at);
    found.push(Buffer.from(body.subarray(at + fuse.Dirent.size, at + fuse.Dirent.size + namelen)).toString());
    next = Number(off);
    at += fuse.Dirent.size + Math.ceil(namelen / 8) * 8;
  }
  return { names: found, next };
}

test('every structure and constant of FUSE is what the C compiler makes of it', ({ skip }) => {
  const { InitIn: _, InitOut: __, INIT_OUT_BYTES: ___, ...tables } = fuse;
  const check = checkHeaders({ headers: ['linux/fuse.h'], tables: [tables] });
  if (check.unavailable !== undefined) skip(check.unavailable);
  expect(check.differences).toEqual([]);
  expect(check.compared).toBeGreaterThan(150);
});

test('a text that is read in pieces is of one moment, and read anew from its beginning', () => {
  const { find, open, read } = world();
  const node = find('counter');
  const [one, other] = [open(node), open(node)];
  const text = (fh: bigint, offset: number) => Buffer.from(read(node, fh, offset, 2)).toString();
  expect([text(one, 0), text(other, 0), text(one, 2), text(other, 2), text(one, 3)]).toEqual([
    '11',
    '22',
    '1',
    '2',
    '',
  ]);
  expect(text(one, 0)).toBe('33');
});

test('reading can begin in the middle, of a text and of a folder’s names', () => {
  const { find, open, read } = world();
  const node = find('switch');
  expect(Buffer.from(read(node, open(node), 1, 9)).toString()).toBe('ff\n');
  const folder = open(fuse.FUSE_ROOT_ID, fuse.FUSE_OPENDIR);
  expect(names(read(fuse.FUSE_ROOT_ID, folder, 3, 4096, fuse.FUSE_READDIR)).names).toEqual([
    'switch',
    'link',
  ]);
});

test('a file that is open is ENODEV once its folder has gone', () => {
  const { ask, find, open, write, set } = world();
  const device: FuseNode = { kind: 'attribute', read: () => 'on\n', write: () => {} };
  set({ child: { kind: 'folder', entries: () => ({ device }) } });
  const node = find('device', find('child'));
  const fh = open(node, fuse.FUSE_OPEN, 2);
  set({});
  const reading = () => ask(fuse.FUSE_READ, node, fuse.ReadIn.encode({ fh, size: 9 }))?.errno;
  expect([reading(), write(node, fh, 'off\n')?.errno]).toEqual([errno.ENODEV, errno.ENODEV]);
  expect(ask(fuse.FUSE_OPEN, node, fuse.OpenIn.encode())?.errno).toBe(errno.ENOENT);
});

test('what is written reaches the node with the writer’s process, and its errno comes back', () => {
  const { find, open, write, written, faults } = world();
  const node = find('switch');
  const fh = open(node, fuse.FUSE_OPEN, O_WRONLY);
  const answer = write(node, fh, 'on\n');
  expect([answer?.errno, fuse.WriteOut.decode(answer?.body as Uint8Array).size]).toEqual([0, 3]);
  expect(written).toEqual([['on\n', 42]]);
  expect(write(node, fh, 'full\n')?.errno).toBe(errno.ENOSPC);
  expect(write(node, fh, 'bug\n')?.errno).toBe(errno.EIO);
  expect(faults).toEqual([new TypeError('a bug of the node')]);
  expect(write(node, fh, 'on\n', 2)?.errno).toBe(errno.EINVAL);
  expect(write(node, fh, 'x'.repeat(4097))?.errno).toBe(errno.EINVAL);
  expect(write(node, fh + 1n, 'on\n')?.errno).toBe(errno.EBADF);
  expect(write(find('counter'), fh, 'on\n')?.errno).toBe(errno.EBADF);
  expect(written).toHaveLength(1);
});

test('a folder’s names come in as many answers as they need, and none is lost', () => {
  const { open, read, set } = world();
  set(Object.fromEntries(Array.from({ length: 40 }, (_, i) => [`entry${i}`, { kind: 'link', target: '.' }])));
  const fh = open(fuse.FUSE_ROOT_ID, fuse.FUSE_OPENDIR);
  const found: string[] = [];
  for (let at = 0; ; ) {
    const piece = names(read(fuse.FUSE_ROOT_ID, fh, at, 200, fuse.FUSE_READDIR));
    if (piece.names.length === 0) break;
    found.push(...piece.names);
    at = piece.next;
  }
  expect(found.slice(0, 5)).toEqual(['.', '..', 'counter', 'switch', 'link']);
  expect(found.slice(5)).toEqual(Array.from({ length: 40 }, (_, i) => `entry${i}`));
});

test('an entry that has gone is ENOENT by its number, too, and has the same number when it is back', () => {
  const { ask, find, set } = world();
  const child: FuseFolder = { kind: 'folder', entries: () => ({ a: { kind: 'link', target: 'b' } }) };
  set({ child });
  const [node, inside] = [find('child'), find('a', find('child'))];
  set({});
  for (const each of [node, inside]) expect(ask(fuse.FUSE_GETATTR, each)?.errno).toBe(errno.ENOENT);
  expect(ask(fuse.FUSE_LOOKUP, 1, nameBytes('child'))?.errno).toBe(errno.ENOENT);
  set({ child });
  expect([find('child'), find('a', node)]).toEqual([node, inside]);
});

test.each([
  ['an unknown number', fuse.FUSE_GETATTR, 77, NONE, 'ENOENT'],
  ['number 0', fuse.FUSE_GETATTR, 0, NONE, 'ENOENT'],
  ['a name that there is not', fuse.FUSE_LOOKUP, 1, nameBytes('toString'), 'ENOENT'],
  ['a name without its end', fuse.FUSE_LOOKUP, 1, Buffer.from('counter'), 'EINVAL'],
  ['two names', fuse.FUSE_LOOKUP, 1, Buffer.from('counter\0link\0'), 'EINVAL'],
  ['no name', fuse.FUSE_LOOKUP, 1, nameBytes(''), 'EINVAL'],
  ['a structure that is cut short', fuse.FUSE_OPEN, 1, new Uint8Array(3), 'EINVAL'],
  ['opening a folder as a file', fuse.FUSE_OPEN, 1, fuse.OpenIn.encode(), 'EISDIR'],
  ['reading a folder’s link', fuse.FUSE_READLINK, 1, NONE, 'EINVAL'],
  ['making a file', fuse.FUSE_CREATE, 1, nameBytes('x'), 'EACCES'],
  ['making a folder', fuse.FUSE_MKDIR, 1, nameBytes('x'), 'EPERM'],
  ['removing a file', fuse.FUSE_UNLINK, 1, nameBytes('switch'), 'EPERM'],
  ['changing a mode', fuse.FUSE_SETATTR, 1, fuse.SetattrIn.encode({ valid: fuse.FATTR_MODE }), 'EPERM'],
  ['an extended attribute', 22, 1, NONE, 'ENOSYS'],
  ['an opcode of tomorrow', 99, 1, NONE, 'ENOSYS'],
  ['a proposal that is cut short', fuse.FUSE_INIT, 0, new Uint8Array(15), 'EINVAL'],
] as const)('%s is %5$s', (_what, opcode, node, body, code) => {
  expect(world().ask(opcode, node, body)?.errno).toBe(errno[code]);
});

test.each([
  [7, 27, 27],
  [7, 31, 31],
  [7, 99, 31],
  [8, 2, 2],
])('to protocol %i.%i, it answers 7.%i', (major, minor, ours) => {
  const answer = world().body(fuse.FUSE_INIT, 0, fuse.InitIn.encode({ major, minor }));
  expect(answer).toHaveLength(fuse.INIT_OUT_BYTES);
  expect(fuse.InitOut.decode(answer)).toMatchObject({ major: 7, minor: ours, max_write: 4096 });
});

test('only what acts when it is written can be opened for writing, by root, too', () => {
  const { ask, find, body } = world();
  const flags = fuse.OpenIn.encode({ flags: O_WRONLY });
  expect(ask(fuse.FUSE_OPEN, find('counter'), flags)?.errno).toBe(errno.EACCES);
  expect(ask(fuse.FUSE_OPEN, find('switch'), flags)?.errno).toBe(0);
  const mode = (name: string) =>
    fuse.AttrOut.decode(body(fuse.FUSE_GETATTR, find(name))).attr.mode.toString(8);
  expect([mode('counter'), mode('switch'), mode('link')]).toEqual(['100444', '100644', '120777']);
});

test('the kernel gets no answer to what it expects none for, nor to less than a header', () => {
  const { ask, tree } = world();
  for (const opcode of [fuse.FUSE_FORGET, fuse.FUSE_BATCH_FORGET, fuse.FUSE_INTERRUPT])
    expect(ask(opcode, 1, new Uint8Array(16))).toBeUndefined();
  expect(tree.answer(new Uint8Array(39))).toBeUndefined();
  expect(ask(fuse.FUSE_GETATTR, 1, NONE, 41)?.errno).toBe(errno.EINVAL);
});

test('1024 files can be open at once, and closing one makes room', () => {
  const { ask, find, open } = world();
  const node = find('counter');
  const handles = Array.from({ length: 1024 }, () => open(node));
  expect(ask(fuse.FUSE_OPEN, node, fuse.OpenIn.encode())?.errno).toBe(errno.ENFILE);
  ask(fuse.FUSE_RELEASE, node, fuse.ReleaseIn.encode({ fh: handles[3] as bigint }));
  open(node);
});

test(`any bytes are answered or dropped, and nothing throws (seed ${SEED})`, () => {
  const { tree, faults } = world();
  const dice = diceOf(SEED);
  let answers = 0;
  for (let round = 0; round < 20_000; round++) {
    const body = Uint8Array.from({ length: dice(6) === 0 ? dice(300) : 8 * dice(12) }, () =>
      dice(3) === 0 ? dice(256) : dice(3),
    );
    const bytes = fuseRequest(dice(60), dice(8), body);
    if (dice(10) === 0) bytes[dice(bytes.length)] = dice(256);
    const answer = tree.answer(dice(20) === 0 ? bytes.subarray(0, dice(bytes.length)) : bytes);
    if (answer === undefined) continue;
    answers++;
    expect(fuse.OutHeader.decode(answer).len).toBe(answer.length);
  }
  expect(answers).toBeGreaterThan(10_000);
  // What the writer wrote was taken, or refused: the nodes have no other bug than the one that is written.
  expect(faults).toEqual([]);
});
