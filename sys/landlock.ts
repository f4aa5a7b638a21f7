/**
 * Landlock: which files a thread, and the threads and programs that it starts, may open. For good, and without any
 * privilege. @see Documentation/userspace-api/landlock.rst in the Linux source
 */
import { closeSync, constants, fstatSync, openSync } from 'node:fs';
import { errno } from './errno.js';
import { fromNodeError, isErrno } from './error.js';
import { checked } from './fd.js';
import * as libc from './libc.js';
import { SYSTEM_CALLS } from './system-calls.js';

// linux/landlock.h
const LANDLOCK_CREATE_RULESET_VERSION = 1;
const LANDLOCK_RULE_PATH_BENEATH = 1;
const LANDLOCK_RULE_NET_PORT = 2;
export const LANDLOCK_ACCESS_FS_EXECUTE = 1 << 0;
export const LANDLOCK_ACCESS_FS_WRITE_FILE = 1 << 1;
export const LANDLOCK_ACCESS_FS_READ_FILE = 1 << 2;
export const LANDLOCK_ACCESS_FS_READ_DIR = 1 << 3;
export const LANDLOCK_ACCESS_FS_REMOVE_FILE = 1 << 5;
export const LANDLOCK_ACCESS_FS_MAKE_REG = 1 << 8;
export const LANDLOCK_ACCESS_FS_MAKE_SOCK = 1 << 9;
const LANDLOCK_ACCESS_FS_REFER = 1 << 13;
export const LANDLOCK_ACCESS_FS_TRUNCATE = 1 << 14;
export const LANDLOCK_ACCESS_FS_IOCTL_DEV = 1 << 15;
const LANDLOCK_ACCESS_NET_BIND_TCP = 1 << 0;
const LANDLOCK_ACCESS_NET_CONNECT_TCP = 1 << 1;
const LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET = 1 << 0;
const LANDLOCK_SCOPE_SIGNAL = 1 << 1;

/** Rights that a rule of a single file may have. */
const OF_FILES =
  LANDLOCK_ACCESS_FS_EXECUTE |
  LANDLOCK_ACCESS_FS_WRITE_FILE |
  LANDLOCK_ACCESS_FS_READ_FILE |
  LANDLOCK_ACCESS_FS_TRUNCATE |
  LANDLOCK_ACCESS_FS_IOCTL_DEV;

/** Linux 6.12: files, ioctls of devices, TCP, signals, abstract sockets. */
export const LANDLOCK_COMPLETE_ABI = 6;

const O_PATH = 0o10000000;

/** What stays allowed at a path: a file, or a folder and all below it. */
export interface PathRule {
  /** Of the file or folder; a symbolic link stands for its target. */
  readonly path: string;
  /** LANDLOCK_ACCESS_FS bits; those that a file cannot have are ignored for one. */
  readonly rights: number;
}

export interface LandlockRules {
  readonly paths: readonly PathRule[];
  /** TCP ports that can still be bound. */
  readonly ports: readonly number[];
}

/** The kernel's version of Landlock; 0 if it has none, or does not use it. */
export function landlockAbi(): number {
  const call = SYSTEM_CALLS.landlock_create_ruleset;
  const version = libc.syscall(call, 0, 0, LANDLOCK_CREATE_RULESET_VERSION);
  if (version === -errno.ENOSYS || version === -errno.EOPNOTSUPP) return 0;
  return checked(version, 'landlock_create_ruleset', 'this kernel');
}

/** All rights that this version can take away. */
const fileRights = (abi: number): number => {
  const first = LANDLOCK_ACCESS_FS_REFER - 1;
  return (
    first |
    (abi >= 2 ? LANDLOCK_ACCESS_FS_REFER : 0) |
    (abi >= 3 ? LANDLOCK_ACCESS_FS_TRUNCATE : 0) |
    (abi >= 5 ? LANDLOCK_ACCESS_FS_IOCTL_DEV : 0)
  );
};

/** struct landlock_ruleset_attr, in the size that the version knows. */
export function rulesetAttr(abi: number): Uint8Array<ArrayBuffer> {
  const words = new BigUint64Array(abi >= 6 ? 3 : abi >= 4 ? 2 : 1);
  words[0] = BigInt(fileRights(abi));
  if (abi >= 4) words[1] = BigInt(LANDLOCK_ACCESS_NET_BIND_TCP | LANDLOCK_ACCESS_NET_CONNECT_TCP);
  if (abi >= 6) words[2] = BigInt(LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | LANDLOCK_SCOPE_SIGNAL);
  return new Uint8Array(words.buffer);
}

/**
 * Takes from the calling thread what the rules do not leave it: opening other files, TCP, signals and abstract sockets of
 * processes outside. Other threads that exist keep what they have: call it before execve(2), which ends them. A path that
 * does not exist has no rule. Needs {@link setNoNewPrivs} first.
 * @param abi what {@link landlockAbi} returned, not 0
 * @throws SysError of the failed call
 */
export function restrictSelf({ paths, ports }: LandlockRules, abi: number): void {
  const attr = rulesetAttr(abi);
  const ruleset = checked(
    withBytes(attr, (address) => libc.syscall(SYSTEM_CALLS.landlock_create_ruleset, address, attr.length, 0)),
    'landlock_create_ruleset',
    'a ruleset',
  );
  try {
    for (const rule of paths) addPath(ruleset, rule, fileRights(abi));
    for (const port of abi >= 4 ? ports : []) addPort(ruleset, port);
    const result = libc.syscall(SYSTEM_CALLS.landlock_restrict_self, ruleset, 0, 0);
    checked(result, 'landlock_restrict_self', 'this thread');
  } finally {
    closeSync(ruleset);
  }
}

function addPath(ruleset: number, { path, rights }: PathRule, known: number): void {
  let fd: number;
  try {
    fd = openSync(path, O_PATH);
  } catch (error) {
    if (isErrno(error, 'ENOENT') || isErrno(error, 'ENOTDIR') || isErrno(error, 'EACCES')) return;
    throw fromNodeError(error, 'open', path);
  }
  try {
    const most = fstatSync(fd).isDirectory() ? known : known & OF_FILES;
    // struct landlock_path_beneath_attr is packed.
    const attr = new Uint8Array(12);
    const view = new DataView(attr.buffer);
    view.setBigUint64(0, BigInt(rights & most), true);
    view.setInt32(8, fd, true);
    addRule(ruleset, LANDLOCK_RULE_PATH_BENEATH, attr, path);
  } finally {
    closeSync(fd);
  }
}

function addPort(ruleset: number, port: number): void {
  const attr = new BigUint64Array([BigInt(LANDLOCK_ACCESS_NET_BIND_TCP), BigInt(port)]);
  addRule(ruleset, LANDLOCK_RULE_NET_PORT, new Uint8Array(attr.buffer), `TCP port ${port}`);
}

function addRule(ruleset: number, type: number, attr: Uint8Array, target: string): void {
  const result = withBytes(attr, (address) =>
    libc.syscall4(SYSTEM_CALLS.landlock_add_rule, ruleset, type, address, 0),
  );
  checked(result, 'landlock_add_rule', target);
}

const withBytes = (bytes: Uint8Array, use: (address: number) => number): number =>
  libc.withAddress(bytes, (address) => use(address));

/** Whether this thread is kept from the root directory: only Landlock does that to somebody who may read it. */
export function isRestricted(): boolean {
  try {
    closeSync(openSync('/', constants.O_RDONLY | constants.O_DIRECTORY));
    return false;
  } catch (error) {
    return isErrno(error, 'EACCES');
  }
}
