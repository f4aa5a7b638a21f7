/** The system calls that are made to fail, and the errnos of each that a healthy program may meet. x86-64. */
import type { errno } from '../sys/errno.js';

export type ErrnoName = keyof typeof errno & string;

export interface SystemCall {
  readonly name: string;
  /** From asm/unistd_64.h. */
  readonly number: number;
  /** From the call's manual page. Not those that only a wrong argument causes (EBADF, EINVAL). */
  readonly errnos: readonly ErrnoName[];
  /** A shortage: it may last, so later calls of the thread fail as well. */
  readonly canLast?: boolean;
}

const NO_FILES = ['EMFILE', 'ENFILE', 'ENOMEM'] as const;

/**
 * Left out: close, whose errno does not keep the kernel from closing, which a call that is never made would; execve,
 * which is over before the program runs; calls that cannot fail (getpid, brk, rt_sigaction).
 */
export const SYSTEM_CALLS: readonly SystemCall[] = [
  { name: 'read', number: 0, errnos: ['EIO', 'ENOMEM'] },
  { name: 'write', number: 1, errnos: ['EIO', 'ENOSPC'] },
  { name: 'fstat', number: 5, errnos: ['EIO', 'ENOMEM'] },
  { name: 'poll', number: 7, errnos: ['EINTR', 'ENOMEM'] },
  { name: 'mmap', number: 9, errnos: ['ENOMEM', 'EAGAIN'] },
  { name: 'mprotect', number: 10, errnos: ['ENOMEM'] },
  { name: 'munmap', number: 11, errnos: ['ENOMEM'] },
  { name: 'ioctl', number: 16, errnos: ['ENOMEM', 'EIO', 'EBUSY'] },
  { name: 'pread64', number: 17, errnos: ['EIO', 'ENOMEM'] },
  { name: 'pwrite64', number: 18, errnos: ['EIO', 'ENOSPC', 'ENOMEM'] },
  { name: 'access', number: 21, errnos: ['EIO', 'EACCES', 'ENOMEM'] },
  { name: 'madvise', number: 28, errnos: ['ENOMEM', 'EAGAIN'] },
  { name: 'socket', number: 41, errnos: NO_FILES, canLast: true },
  { name: 'connect', number: 42, errnos: ['ECONNREFUSED', 'EAGAIN', 'EACCES'] },
  { name: 'sendto', number: 44, errnos: ['ENOBUFS', 'ENOMEM', 'EPIPE'] },
  { name: 'sendmsg', number: 46, errnos: ['ENOBUFS', 'ENOMEM', 'EPIPE', 'EINTR'] },
  { name: 'recvmsg', number: 47, errnos: ['ENOMEM', 'ECONNRESET', 'EINTR'] },
  { name: 'bind', number: 49, errnos: ['EADDRINUSE', 'EACCES', 'ENOSPC', 'ENOMEM'] },
  { name: 'listen', number: 50, errnos: ['EADDRINUSE'] },
  { name: 'socketpair', number: 53, errnos: NO_FILES, canLast: true },
  { name: 'setsockopt', number: 54, errnos: ['ENOMEM'] },
  { name: 'getsockopt', number: 55, errnos: ['ENOBUFS'] },
  { name: 'clone', number: 56, errnos: ['EAGAIN', 'ENOMEM'], canLast: true },
  { name: 'wait4', number: 61, errnos: ['EINTR', 'ECHILD'] },
  { name: 'fcntl', number: 72, errnos: ['EMFILE', 'ENOMEM'] },
  { name: 'ftruncate', number: 77, errnos: ['EIO', 'ENOSPC', 'EINTR'] },
  { name: 'getcwd', number: 79, errnos: ['ENOENT', 'ENOMEM'] },
  { name: 'rename', number: 82, errnos: ['EIO', 'ENOSPC', 'EACCES'] },
  { name: 'unlink', number: 87, errnos: ['EIO', 'EACCES'] },
  { name: 'readlink', number: 89, errnos: ['EIO', 'ENOMEM', 'EACCES'] },
  { name: 'prctl', number: 157, errnos: ['EPERM'] },
  { name: 'futex', number: 202, errnos: ['EINTR', 'EAGAIN'] },
  { name: 'getdents64', number: 217, errnos: ['EIO'] },
  { name: 'epoll_wait', number: 232, errnos: ['EINTR'] },
  { name: 'epoll_ctl', number: 233, errnos: ['ENOMEM', 'ENOSPC'] },
  { name: 'inotify_add_watch', number: 254, errnos: ['ENOSPC', 'ENOMEM'] },
  { name: 'openat', number: 257, errnos: [...NO_FILES, 'EIO', 'EACCES'], canLast: true },
  { name: 'newfstatat', number: 262, errnos: ['EIO', 'ENOMEM', 'EACCES'] },
  { name: 'epoll_pwait', number: 281, errnos: ['EINTR'] },
  { name: 'fallocate', number: 285, errnos: ['EIO', 'ENOSPC'] },
  { name: 'accept4', number: 288, errnos: [...NO_FILES, 'ECONNABORTED', 'EAGAIN'] },
  { name: 'eventfd2', number: 290, errnos: NO_FILES, canLast: true },
  { name: 'epoll_create1', number: 291, errnos: NO_FILES, canLast: true },
  { name: 'pipe2', number: 293, errnos: ['EMFILE', 'ENFILE'], canLast: true },
  { name: 'inotify_init1', number: 294, errnos: NO_FILES, canLast: true },
  { name: 'prlimit64', number: 302, errnos: ['EPERM'] },
  { name: 'memfd_create', number: 319, errnos: NO_FILES, canLast: true },
  { name: 'statx', number: 332, errnos: ['EIO', 'ENOMEM', 'EACCES'] },
  { name: 'clone3', number: 435, errnos: ['EAGAIN', 'ENOMEM'], canLast: true },
];

const KVM_RUN = 0xae80;
const KVM_RUN_ERRNOS: readonly ErrnoName[] = ['EINTR', 'EAGAIN', 'EFAULT', 'EIO', 'ENOMEM'];

/** The errnos that this call can be given. @param request of ioctl, or -1 */
export const errnosOf = (call: SystemCall, request: number): readonly ErrnoName[] =>
  request === KVM_RUN ? KVM_RUN_ERRNOS : call.errnos;
