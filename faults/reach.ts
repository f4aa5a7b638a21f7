/**
 * Endings that no code of ours can prevent: the failed call is not ours (Ending.caller), and who made it ends the
 * process itself. Each entry names the calls, the signal and what is printed, so that nothing else passes for it.
 */
import { basename } from 'node:path';
import type { Fault } from './fault.js';
import type { Ending } from './injector.js';

interface Outside {
  readonly reason: string;
  /** System calls that it is about. */
  readonly calls: readonly string[];
  readonly is: (ending: Ending, fault: Fault) => boolean;
}

const NODE = basename(process.execPath);
const isNodes = ({ caller }: Ending): boolean => caller === NODE;
const isSilent = ({ stderr }: Ending): boolean => stderr === '';
const hasEnded = ({ signal }: Ending, ...signals: readonly string[]): boolean =>
  signal !== undefined && signals.includes(signal);
const framesOf = ({ stderr }: Ending): readonly string[] => stderr.match(/^ *at .*:\d+:\d+\)?/gm) ?? [];
/** V8 prints why, or stops at an instruction that traps. */
const isV8Fatal = ({ stderr }: Ending): boolean =>
  stderr === '' ||
  /^# (?:Fatal |Fatal error in )/m.test(stderr) ||
  /V8_Fatal|v8::internal::V8::/.test(stderr);

const isStarting = ({ stderr }: Ending): boolean =>
  /^ *at (?:.*\()?node:internal\/(?:main\/run_main_module|modules\/run_main):\d/m.test(stderr);
/** The program's file is read by a thread of libuv's pool. */
const isLinking = ({ stderr }: Ending): boolean =>
  /^ *at async ModuleJob\._link \(node:internal\/modules\/esm\/module_job:\d/m.test(stderr) &&
  /^ *path: '.*\/dist\/vmm\/cli\.js'$/m.test(stderr);

const OUTSIDE: readonly Outside[] = [
  {
    reason: 'the dynamic linker cannot load node: nothing of ours has run',
    calls: ['openat', 'read', 'pread64', 'fstat', 'newfstatat', 'mmap', 'mprotect', 'munmap'],
    is: ({ caller, status, signal, stderr, stdout }) =>
      caller.startsWith('ld-linux') &&
      ((status === 127 && /error while loading shared libraries/.test(stderr)) ||
        (signal === 'SIGSEGV' && stderr === '' && stdout === '')),
  },
  {
    reason: 'Node cannot read the program: nothing of ours has run',
    calls: ['openat', 'read', 'pread64', 'fstat', 'newfstatat', 'statx', 'readlink'],
    is: (ending, { thread }) =>
      isNodes(ending) &&
      ending.status === 1 &&
      ending.stdout === '' &&
      (thread === 'main' ? isStarting(ending) : isLinking(ending)) &&
      framesOf(ending).every((frame) => /[ (]node:/.test(frame)),
  },
  {
    reason: 'V8 cannot make, change or release its memory, and ends the process',
    calls: ['mmap', 'munmap', 'mprotect', 'madvise'],
    is: (ending) => isNodes(ending) && hasEnded(ending, 'SIGTRAP', 'SIGILL', 'SIGABRT') && isV8Fatal(ending),
  },
  {
    reason: 'libuv aborts where it does not handle an error: in its loop, for its threads',
    calls: ['epoll_ctl', 'epoll_create1', 'eventfd2', 'pipe2', 'clone3', 'clone'],
    is: (ending) => isNodes(ending) && hasEnded(ending, 'SIGABRT') && isSilent(ending),
  },
  {
    reason: "an assertion in Node's own C++ source",
    calls: ['fstat', 'epoll_create1', 'eventfd2', 'pipe2', 'clone3', 'clone', 'epoll_ctl', 'fcntl'],
    is: (ending) =>
      isNodes(ending) &&
      hasEnded(ending, 'SIGABRT') &&
      /^ +# {2}\S*node\[\d+\]: .* at \.\.\/src\/\w+(?:\/\w+)*\.(?:cc|h):\d+$/m.test(ending.stderr) &&
      /^ +# {2}Assertion failed: /m.test(ending.stderr),
  },
  {
    reason: 'Node inspects its standard descriptors before it does anything else',
    calls: ['fstat'],
    is: (ending) =>
      isNodes(ending) &&
      hasEnded(ending, 'SIGABRT') &&
      /^ *\d+: 0x[0-9a-f]+ node::Start\(int, char\*\*\)/m.test(ending.stderr) &&
      ending.stdout === '',
  },
  {
    reason: 'Node uses its event loop though it could not be made',
    calls: ['epoll_create1', 'eventfd2', 'pipe2'],
    is: (ending, { thread }) =>
      isNodes(ending) &&
      thread === 'main' &&
      hasEnded(ending, 'SIGSEGV') &&
      isSilent(ending) &&
      ending.stdout === '',
  },
  {
    reason:
      'Node waits at its start for threads of its platform that could not be made: nothing of ours has run',
    calls: ['clone3', 'clone', 'mmap', 'mprotect'],
    is: (ending, { thread }) =>
      isNodes(ending) && thread === 'main' && ending.isLate && isSilent(ending) && ending.stdout === '',
  },
  {
    reason: 'Node cannot make the thread of its platform',
    calls: ['clone3', 'clone', 'mmap', 'mprotect'],
    is: (ending) =>
      isNodes(ending) &&
      hasEnded(ending, 'SIGABRT') &&
      /^node\[\d+\]: pthread_create: Resource temporarily unavailable$/m.test(ending.stderr) &&
      ending.stdout === '',
  },
];

/** Why this ending is none of ours; undefined if it is. */
export const outsideOurReach = (fault: Fault, ending: Ending): string | undefined =>
  OUTSIDE.find(({ calls, is }) => calls.includes(fault.call.name) && is(ending, fault))?.reason;
