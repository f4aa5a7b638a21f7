/** System calls that a sandboxed machine makes: Node's, V8's, libc's and its own. */
import { LOCK_COMMANDS } from '../../devices/block/image-lock.js';
import { errno } from '../../sys/errno.js';
import type { CallRule } from '../../sys/seccomp.js';
import type { SystemCallName } from '../../sys/system-calls.js';

/** Which of the calls that depend on the configuration are allowed. */
export interface CallNeeds {
  /** Requests of ioctl; the hottest first. */
  readonly ioctls: readonly number[];
  /** Address families of new sockets. */
  readonly families: readonly number[];
  /** Whether it accepts clients of sockets that it has already. */
  readonly accepts: boolean;
  /** Of this process. */
  readonly pid: number;
}

const MEMORY = [
  ['mmap', 'mprotect', 'munmap', 'mremap', 'brk', 'madvise', 'memfd_create', 'membarrier'],
  ['pkey_alloc', 'pkey_mprotect', 'pkey_free'],
] as const;

const THREADS = [
  ['futex', 'set_robust_list', 'rseq', 'exit', 'exit_group', 'sched_yield', 'gettid', 'getpid', 'getppid'],
  ['sched_getaffinity', 'sched_getparam', 'sched_getscheduler', 'getpriority', 'getcpu', 'getpgrp'],
  ['rt_sigaction', 'rt_sigprocmask', 'rt_sigreturn', 'sigaltstack', 'restart_syscall'],
] as const;

/** Landlock says which files; of open ones, all may be done that these do. */
const FILES = [
  ['openat', 'close', 'read', 'write', 'readv', 'writev', 'pread64', 'pwrite64', 'preadv', 'pwritev'],
  ['preadv2', 'pwritev2', 'lseek', 'fstat', 'newfstatat', 'statx', 'access', 'faccessat', 'faccessat2'],
  [
    'readlink',
    'readlinkat',
    'getcwd',
    'getdents64',
    'ftruncate',
    'fallocate',
    'fchmod',
    'fchown',
    'fsync',
    'fdatasync',
  ],
  ['dup', 'dup2', 'dup3', 'rename', 'unlink'],
] as const;

const EVENTS = [
  ['poll', 'ppoll', 'epoll_create1', 'epoll_ctl', 'epoll_wait', 'epoll_pwait', 'epoll_pwait2', 'eventfd2'],
  ['pipe2', 'inotify_init1', 'inotify_add_watch'],
] as const;

const TIME_AND_FACTS = [
  ['clock_gettime', 'clock_getres', 'clock_nanosleep', 'nanosleep', 'gettimeofday', 'time', 'times'],
  [
    'getrandom',
    'getrusage',
    'getrlimit',
    'sysinfo',
    'uname',
    'getuid',
    'geteuid',
    'getgid',
    'getegid',
    'capget',
  ],
] as const;

/** Of sockets that are open: standard output can be one. */
const OPEN_SOCKETS = ['getsockname', 'getpeername', 'getsockopt', 'shutdown'] as const;

/** Node listens again on a socket that it is given. */
const ACCEPTING = ['listen', 'accept4'] as const;

const SOCKETS = [
  ['connect', 'bind', 'listen', 'accept4', 'setsockopt', 'sendmsg', 'recvmsg', 'sendto', 'recvfrom'],
] as const;

// linux/sched.h
const CLONE_PTRACE = 0x2000;
const CLONE_VFORK = 0x4000;
const CLONE_THREAD = 0x1_0000;
/** CLONE_NEWNS, and NEWCGROUP to NEWNET. */
const CLONE_NAMESPACES = 0x2_0000 | 0x7e00_0000;

const AF_UNIX = 1;

// linux/fcntl.h: the duplicates, the flags of a descriptor and of a file, the seals of a memfd.
const FCNTL = [0, 1, 2, 3, 4, 1030, 1033, 1034];

/** PR_SET_NAME, PR_GET_NAME, PR_SET_VMA: names of threads and mappings. */
const PRCTL = [15, 16, 0x5356_4d41];

const all = (groups: readonly (readonly SystemCallName[])[]): CallRule[] =>
  groups.flat().map((name) => ({ name }));

export function callRules({ ioctls, families, accepts, pid }: CallNeeds): readonly CallRule[] {
  return [
    { name: 'ioctl', when: [{ arg: 1, oneOf: ioctls }] },
    ...all([...MEMORY, ...THREADS, ...FILES, ...EVENTS, ...TIME_AND_FACTS, OPEN_SOCKETS]),
    // Threads of this process, and nothing else: the flags of clone3 lie in memory, where no filter sees them.
    {
      name: 'clone',
      when: [
        { arg: 0, bits: CLONE_THREAD | CLONE_PTRACE | CLONE_VFORK | CLONE_NAMESPACES, are: CLONE_THREAD },
      ],
    },
    { name: 'clone3', when: 'never', otherwise: errno.ENOSYS },
    { name: 'io_uring_setup', when: 'never', otherwise: errno.ENOSYS },
    { name: 'fcntl', when: [{ arg: 1, oneOf: [...FCNTL, ...LOCK_COMMANDS] }] },
    { name: 'prctl', when: [{ arg: 0, oneOf: PRCTL }], otherwise: errno.EPERM },
    { name: 'kill', when: [{ arg: 0, oneOf: [pid] }] },
    { name: 'tgkill', when: [{ arg: 0, oneOf: [pid] }] },
    // Limits are read, and never set.
    { name: 'prlimit64', when: [{ arg: 2, isZero: true }], otherwise: errno.EPERM },
    { name: 'socketpair', when: [{ arg: 0, oneOf: [AF_UNIX] }] },
    // Node asks for the network's interfaces when ffi-rs asks it for its platform, and does without.
    families.length === 0
      ? { name: 'socket', when: 'never', otherwise: errno.EPERM }
      : { name: 'socket', when: [{ arg: 0, oneOf: families }], otherwise: errno.EPERM },
    ...(families.length === 0 ? (accepts ? all([ACCEPTING]) : []) : all(SOCKETS)),
  ];
}
