/** What a sandbox leaves to a machine: files by Landlock, system calls by seccomp. */
import {
  existsSync,
  fstatSync,
  lstatSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  statSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import {
  LANDLOCK_ACCESS_FS_EXECUTE,
  LANDLOCK_ACCESS_FS_IOCTL_DEV,
  LANDLOCK_ACCESS_FS_MAKE_REG,
  LANDLOCK_ACCESS_FS_MAKE_SOCK,
  LANDLOCK_ACCESS_FS_READ_DIR,
  LANDLOCK_ACCESS_FS_READ_FILE,
  LANDLOCK_ACCESS_FS_REMOVE_FILE,
  LANDLOCK_ACCESS_FS_TRUNCATE,
  LANDLOCK_ACCESS_FS_WRITE_FILE,
  type PathRule,
} from '../../sys/landlock.js';
import type { CallRule } from '../../sys/seccomp.js';
import { workerUrl } from '../../sys/worker-url.js';
import type { VmConfig } from '../config.js';
import { ConfigError } from '../config-error.js';
import { parseSerialEnd } from '../serial-end.js';
import { callRules } from './calls.js';
import { type DeviceNeeds, needsOf } from './device-needs.js';
import { ioctlsOf } from './ioctls.js';

const READ = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;
const WRITE_FILE = LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_TRUNCATE;
const CONTROL = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_IOCTL_DEV;
const CONTROL_READ = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_IOCTL_DEV;
const REPLACE = WRITE_FILE | LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_REMOVE_FILE;
const LISTEN = LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_REMOVE_FILE;
const EXECUTE = LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE;

const AF_UNIX = 1;
const AF_INET = 2;

/** Variables with a file that Node reads when it starts. */
const NODE_FILES = ['NODE_EXTRA_CA_CERTS', 'OPENSSL_CONF', 'SSL_CERT_FILE'];

/** What a program around the machine needs beside it. */
export interface SandboxExtras {
  /** Files and folders to read: its own modules, its configuration. */
  readonly read?: readonly string[];
  /** Files that it writes, or replaces by a new one; the folder of each can then be written. */
  readonly outputs?: readonly string[];
  /** Paths of unix sockets that it creates; it can then connect to others, too. */
  readonly sockets?: readonly string[];
  /** Paths of unix sockets that it listens on before `seal()`, and accepts clients of after it. */
  readonly listeners?: readonly string[];
  /** TCP port that it listens on; 0 for a free one. */
  readonly port?: number | undefined;
}

/** What a sandbox allows. Anything else is refused. */
export interface SandboxPolicy {
  /** Files and folders that can be opened, with rights in Landlock's bits. */
  readonly paths: readonly PathRule[];
  /** TCP ports that can be bound; none can be connected to. */
  readonly ports: readonly number[];
  /** System calls that can be made. */
  readonly calls: readonly CallRule[];
  /** Requests of ioctl by name. */
  readonly ioctls: ReadonlyMap<string, number>;
  /** Descriptors of the parent process that the machine uses. */
  readonly descriptors: readonly number[];
}

/**
 * The policy of a machine's sandbox. Reads what exists, and opens nothing for the machine.
 * @throws ConfigError for a device that cannot be in a sandbox
 */
export function sandboxPolicy(config: VmConfig, extras: SandboxExtras = {}): SandboxPolicy {
  const needs = needsOf(config.devices);
  if (needs.problems.length > 0) throw new ConfigError(needs.problems);
  const ioctls = ioctlsOf(needs);
  const serial = serialNeeds(config);
  const { port } = extras;
  const sockets = [...(extras.sockets ?? []), ...serial.sockets];
  const families = [
    ...(needs.hasUnixSocket || sockets.length > 0 ? [AF_UNIX] : []),
    ...(port === undefined ? [] : [AF_INET]),
  ];
  const numbers = [...new Set(ioctls.values())];
  return {
    paths: [
      ...runtimePaths(),
      ...machinePaths(config, needs),
      ...extraPaths(extras),
      ...extraPaths(serial),
      ...rules(CONTROL, serial.nodes),
      ...terminalPaths(),
    ],
    ports: port === undefined ? [] : [port],
    calls: callRules({
      ...{ ioctls: numbers, families, pid: process.pid },
      accepts: (extras.listeners ?? []).length > 0,
    }),
    ioctls,
    descriptors: needs.descriptors,
  };
}

/** What the serial ports' ends need. */
function serialNeeds({ serial }: VmConfig) {
  const ends = serial.map(parseSerialEnd);
  const paths = (kind: 'unix' | 'file') => ends.flatMap((end) => (end.kind === kind ? end.path : []));
  return {
    nodes: serial.includes('pty') ? ['/dev/ptmx', '/dev/pts'] : [],
    sockets: paths('unix'),
    outputs: paths('file'),
  };
}

const rules = (rights: number, paths: readonly string[]): PathRule[] =>
  paths.map((path) => ({ path, rights }));

/** What Node, libc and this package read, before and after the start. */
function runtimePaths(): PathRule[] {
  const mapped = readFileSync('/proc/self/maps', 'latin1').matchAll(/ (\/.*)$/gm);
  const files = [...new Set([...mapped].map(([, path]) => path as string))];
  const isLoader = (path: string) => /^ld[-.]/.test(basename(path));
  const packages = dirname(fileURLToPath(workerUrl('../package.json')));
  return [
    ...rules(EXECUTE, [process.execPath, ...files.filter(isLoader)]),
    ...rules(READ, files),
    // Packages with native code may find their platform's in a package of its own.
    ...rules(READ, files.filter((path) => path.endsWith('.node')).map(dirname)),
    ...rules(READ, [packages, ...modulesOf(['ffi-rs', 'pngjs', 'koffi'])]),
    ...rules(READ, [
      '/etc/ld.so.cache',
      '/etc/localtime',
      '/etc/ssl/openssl.cnf',
      '/usr/lib/ssl/openssl.cnf',
    ]),
    ...rules(
      READ,
      NODE_FILES.flatMap((name) => process.env[name] ?? []),
    ),
    // Sizes of memory, cache and heap; our own threads, descriptors and mappings.
    ...rules(READ, ['/proc/self', '/proc/meminfo', '/proc/cpuinfo', '/proc/stat', '/proc/modules']),
    ...rules(READ, ['/proc/sys/vm/overcommit_memory', '/sys/fs/cgroup', '/sys/devices/system/cpu']),
    ...rules(CONTROL, ['/dev/null']),
    ...rules(READ, ['/dev/urandom']),
  ];
}

/** Folders of packages that are loaded at run time. */
function modulesOf(names: readonly string[]): string[] {
  const require = createRequire(import.meta.url);
  return names.flatMap((name) => {
    try {
      const file = require.resolve(name);
      const modules = file.lastIndexOf('/node_modules/');
      return modules < 0 ? [dirname(file)] : [file.slice(0, modules + '/node_modules'.length)];
    } catch {
      return [];
    }
  });
}

function machinePaths(config: VmConfig, needs: DeviceNeeds): PathRule[] {
  const { guest, kernel, initrd, plugins, sandbox } = config;
  const images = [guest, kernel, initrd].filter((path) => path !== undefined);
  return [
    ...rules(CONTROL, ['/dev/kvm', ...needs.nodes]),
    ...rules(READ, [...images, ...needs.read, ...sandbox.read]),
    ...needs.disks.map(diskRule),
    ...needs.captures.map(captureRule),
    ...plugins.flatMap(pluginPaths),
    ...rules(READ | CONTROL | REPLACE | LISTEN, sandbox.write),
  ];
}

/** An overlay that is not there yet is made in its folder. */
function diskRule({ path, isReadOnly }: DeviceNeeds['disks'][number]): PathRule {
  if (isReadOnly || existsSync(path)) return { path, rights: isReadOnly ? CONTROL_READ : CONTROL };
  return { path: dirname(resolve(path)), rights: CONTROL | REPLACE };
}

/** A capture that is there is written anew. */
const captureRule = (path: string): PathRule =>
  existsSync(path)
    ? { path, rights: WRITE_FILE }
    : { path: dirname(resolve(path)), rights: WRITE_FILE | REPLACE };

/** A plug-in's folder, and the packages and package.json files that Node looks for from there. */
function pluginPaths(url: string): PathRule[] {
  if (!url.startsWith('file:')) return [];
  const folder = dirname(realpathSync(fileURLToPath(url)));
  const above = [];
  for (let at = folder; ; at = dirname(at)) {
    above.push(join(at, 'package.json'), join(at, 'node_modules'));
    if (at === dirname(at)) break;
  }
  return rules(READ, [folder, ...above]);
}

function extraPaths({ read = [], outputs = [], sockets = [], listeners = [] }: SandboxExtras): PathRule[] {
  return [
    ...rules(READ, read),
    ...outputs.map(outputRule),
    ...rules(
      LISTEN,
      [...sockets, ...listeners].map((path) => dirname(resolve(path))),
    ),
  ];
}

/** A file is replaced by a new one beside it; a device, a FIFO or a file with other names is written. */
function outputRule(path: string): PathRule {
  const target = lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink() ? tryRealpath(path) : path;
  const stats = statSync(target, { throwIfNoEntry: false });
  const isReplaced = stats === undefined || (stats.isFile() && stats.nlink === 1);
  return isReplaced
    ? { path: dirname(resolve(target)), rights: REPLACE }
    : { path: target, rights: WRITE_FILE };
}

function tryRealpath(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return resolve(dirname(path), readlinkSync(path));
  }
}

/** Node opens a terminal again to read and write it without blocking those who share it. */
function terminalPaths(): PathRule[] {
  const nodes = [0, 1, 2].flatMap((fd) => {
    try {
      return fstatSync(fd).isCharacterDevice() ? [readlinkSync(`/proc/self/fd/${fd}`)] : [];
    } catch {
      return [];
    }
  });
  return rules(
    CONTROL,
    nodes.filter((path) => /^\/dev\/(?:pts\/|tty|console)/.test(path)),
  );
}
