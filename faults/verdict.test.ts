import { basename } from 'node:path';
import { describe, expect, test } from 'vitest';
import { randomOf } from '../sys/testing/random.js';
import { type Fault, faultOf, type Kind, nameOf, pick } from './fault.js';
import type { Ending } from './injector.js';
import { momentOf, nameOf as nameOfMoment } from './moment.js';
import type { Result } from './scenario.js';
import { SYSTEM_CALLS } from './system-calls.js';
import { judgeFault, judgeMoment } from './verdict.js';

const NODE = basename(process.execPath);
const OK = '\n  verdict     ok, exit code 0\n';
const SENTENCE = 'tsvisor: open on /dev/kvm: EMFILE\n';
const STACK = 'tsvisor: no\n    at checked (file:///x/dist/chunks/fd.js:10:23)\n';

const orderly: Ending = {
  status: 69,
  signal: undefined,
  isLate: false,
  isEarly: false,
  failed: 1,
  caller: NODE,
  left: [],
  kinds: [],
  took: 500,
  stdout: '',
  stderr: SENTENCE,
};
const result = (ending: Partial<Ending>, others: Partial<Result> = {}): Result => ({
  ending: { ...orderly, ...ending },
  problems: [],
  isGuestOk: false,
  ...others,
});
const fault = (name: string): Fault => faultOf(name);
const OPEN = fault('run:main:openat:12:EMFILE');

test('a fault’s name is the fault, for every system call', () => {
  const kinds: Kind[] = SYSTEM_CALLS.map((call) => ({
    call,
    request: call.name === 'ioctl' ? 0xae80 : -1,
    thread: 'main',
    count: 9,
  }));
  const random = randomOf(1);
  for (const kind of kinds) {
    const picked = pick('run', [kind], random);
    expect(faultOf(nameOf(picked))).toEqual(picked);
    expect(picked.nth).toBeLessThanOrEqual(9);
  }
  expect(() => faultOf('run:main:openat:x:EMFILE')).toThrowError(/a fault is SCENARIO/);
  expect(nameOfMoment(momentOf('serve:SIGHUP:42') ?? { scenario: '', signal: 'SIGINT', at: 0 })).toBe(
    'serve:SIGHUP:42',
  );
  expect(momentOf('serve:SIGSTOP:42')).toBeUndefined();
});

test('the same seed picks the same faults', () => {
  const kinds: Kind[] = SYSTEM_CALLS.map((call) => ({ call, request: -1, thread: 'main', count: 1000 }));
  const picks = (seed: number) => {
    const random = randomOf(seed);
    return Array.from({ length: 20 }, () => nameOf(pick('run', kinds, random)));
  };
  expect(picks(7)).toEqual(picks(7));
  expect(picks(7)).not.toEqual(picks(8));
});

describe('a failing call', () => {
  test.each<[string, Partial<Ending>, Partial<Result>]>([
    ['an error of the host', {}, {}],
    ['a run that does not mind', { status: 0, stdout: OK, stderr: '' }, { isGuestOk: true }],
    ['a guest that minds', { status: 1, stdout: '\n  verdict     failed, exit code 1\n', stderr: '' }, {}],
    ['a server that is ended by SIGTERM', { status: 143, stderr: '' }, { isGuestOk: undefined }],
  ])('%s is orderly', (_, ending, others) => {
    expect(judgeFault(OPEN, result(ending, others))).toEqual({ kind: 'orderly' });
  });

  test.each<[RegExp, Partial<Ending>, Partial<Result>]>([
    [/prints a stack trace/, { stderr: STACK }, {}],
    [/without a sentence/, { stderr: '' }, {}],
    [/status 0, but the guest did not succeed/, { status: 0, stderr: '' }, {}],
    [/status 0, without SIGTERM/, { status: 0, stderr: '' }, { isGuestOk: undefined }],
    [/status 1$/, { status: 1 }, {}],
    [/had to be killed/, { status: undefined, signal: 'SIGKILL', isLate: true }, {}],
    [/ended by SIGSEGV/, { status: undefined, signal: 'SIGSEGV' }, {}],
    [/left processes: passt/, { left: ['passt'] }, {}],
    [/left the file x/, {}, { problems: ['left the file x'] }],
  ])('%s is wrong', (problem, ending, others) => {
    const verdict = judgeFault(OPEN, result(ending, others));
    expect(verdict).toMatchObject({ kind: 'wrong' });
    expect('problems' in verdict && verdict.problems.join()).toMatch(problem);
  });

  test('one that was not made is not reached', () => {
    expect(judgeFault(OPEN, result({ status: 0, stdout: OK, failed: 0 }, { isGuestOk: true }))).toEqual({
      kind: 'missed',
    });
  });
});

/** Node 20 about a first module that it cannot open. */
const UNREAD = `node:fs:448
    at Object.readFileSync (node:fs:448:20)
    at Module._extensions..js (node:internal/modules/cjs/loader:1617:44)
    at node:internal/main/run_main_module:28:49 {
  code: 'ENFILE',
`;

/** Node 20 about the program itself, whose path it cannot resolve. */
const UNRESOLVED = `node:internal/process/esm_loader:34
    at finalizeResolution (node:internal/modules/esm/resolve:281:17)
    at ModuleLoader.import (node:internal/modules/esm/loader:640:38)
    at node:internal/modules/run_main:174:35 {
  code: 'EACCES',
`;

const UNLINKED = `Error: EACCES: permission denied, open '/tsvisor/dist/vmm/cli.js'
    at async readFile (node:internal/fs/promises:1249:14)
    at async ModuleJob._link (node:internal/modules/esm/module_job:148:19) {
  path: '/tsvisor/dist/vmm/cli.js'
`;

describe('outside our reach', () => {
  const abort = { status: undefined, signal: 'SIGABRT', stderr: '' };
  test.each<[string, Partial<Ending>]>([
    ['run:main:epoll_ctl:1:ENOMEM', abort],
    ['run:main:madvise:1:ENOMEM', { ...abort, signal: 'SIGTRAP' }],
    ['run:main:openat:14:ENFILE', { status: 1, stderr: UNREAD }],
    ['run:main:statx:11:EACCES', { status: 1, stderr: UNRESOLVED }],
    ['run:node:openat:1+:EACCES', { status: 1, stderr: UNLINKED }],
    [
      'run:main:mmap:1:ENOMEM',
      {
        status: 127,
        caller: 'ld-linux-x86-64.so.2',
        stderr: 'node: error while loading shared libraries: x\n',
      },
    ],
  ])('%s, and nothing that differs from it in one respect', (name, ending) => {
    const its = result(ending);
    expect(judgeFault(fault(name), its)).toMatchObject({ kind: 'outside' });
    for (const other of [
      { caller: 'ffi-rs.linux-x64-gnu.node' },
      { signal: 'SIGBUS', status: undefined },
      { stderr: 'free(): invalid pointer\n' },
      { stderr: `${UNREAD}    at file:///tsvisor/dist/chunks/cli.js:1:1\n` },
    ])
      expect(judgeFault(fault(name), { ...its, ending: { ...its.ending, ...other } })).toMatchObject({
        kind: 'wrong',
      });
    const ours = { ...its.ending, stderr: UNLINKED.replaceAll('vmm/cli.js', 'chunks/run.js') };
    expect(judgeFault(fault('run:node:openat:1+:EACCES'), { ...its, ending: ours })).toMatchObject({
      kind: 'wrong',
    });
    expect(judgeFault(fault('run:main:futex:1:EINTR'), its)).toMatchObject({ kind: 'wrong' });
  });
});

describe('a signal', () => {
  const at = (name: string) => momentOf(name) as NonNullable<ReturnType<typeof momentOf>>;
  test.each<[string, string, Partial<Ending>, boolean | undefined]>([
    ['orderly', 'run:SIGHUP:1', { status: 129 }, false],
    ['orderly', 'run:SIGTERM:1', { status: 0, stdout: OK }, true],
    ['orderly', 'serve:SIGUSR2:1', { status: 143 }, undefined],
    ['orderly', 'run:SIGKILL:1', { status: undefined, signal: 'SIGKILL' }, false],
    ['outside', 'run:SIGTERM:1', { status: undefined, signal: 'SIGTERM', isEarly: true, stderr: '' }, false],
    ['wrong', 'run:SIGTERM:1', { status: undefined, signal: 'SIGTERM', stderr: '' }, false],
    [
      'wrong',
      'run:SIGTERM:1',
      { status: undefined, signal: 'SIGTERM', isEarly: true, stdout: 'tsvisor: \n' },
      false,
    ],
    ['wrong', 'run:SIGTERM:1', { status: 0 }, false],
    ['wrong', 'run:SIGUSR2:1', { status: 140 }, false],
    ['wrong', 'run:SIGHUP:1', { status: 129, stderr: STACK }, false],
  ])('%s: %s %j', (kind, name, ending, isGuestOk) => {
    expect(judgeMoment(at(name), result(ending, { isGuestOk }))).toMatchObject({ kind });
  });
});
