/** A saved machine on the disk: a folder with its configuration, its state and its memory. */
import { constants, fstatSync, writeFileSync } from 'node:fs';
import { isAbsolute, join, resolve } from 'node:path';
import { errno } from '../../sys/errno.js';
import { fromNodeError, SysError } from '../../sys/error.js';
import { Fd } from '../../sys/fd.js';
import { syncPath, writeFolder } from '../../sys/folders.js';
import type { MemoryView } from '../../sys/mapping.js';
import { Scope } from '../../sys/scope.js';
import { decodeSections, encodeSections, type StateSection } from '../../sys/state-sections.js';
import { ConfigError } from '../config-error.js';
import { readConfigFile } from '../config-file.js';
import { InputFileError, readInputFile } from '../input-file.js';
import { writeMemory } from './memory-file.js';

const CONFIG = 'config.json';
const STATE = 'state';
const MEMORY = 'memory';
/** Above any machine's: each of its devices has 256 MiB at most. */
const MOST_STATE_BYTES = 512 << 20;
/** What is in the memory of a guest is its owner's. */
const MODE = 0o600;

/** What a save has written. */
export interface SnapshotInfo {
  /** Absolute path. */
  readonly folder: string;
  /** Length of the state: processors, devices. */
  readonly stateBytes: number;
  /** Bytes of memory that are in the file; its other pages are holes, and zero. */
  readonly memoryBytes: number;
  /** How long the machine stood still for it. */
  readonly ms: number;
}

/** Writes a folder, or leaves one that is there as it was. @throws SysError of the call that failed */
export function writeSnapshot(
  folder: string,
  config: object,
  sections: readonly StateSection[],
  memory: MemoryView,
): Pick<SnapshotInfo, 'stateBytes' | 'memoryBytes'> {
  const state = encodeSections(sections);
  let memoryBytes = 0;
  writeFolder(folder, (path) => {
    put(join(path, CONFIG), `${JSON.stringify(config, undefined, 2)}\n`);
    put(join(path, STATE), state);
    using file = Fd.open(join(path, MEMORY), 'wx', undefined, MODE);
    memoryBytes = writeMemory(file, memory);
  });
  return { stateBytes: state.length, memoryBytes };
}

function put(path: string, data: string | Uint8Array): void {
  try {
    writeFileSync(path, data, { flag: 'wx', mode: MODE });
  } catch (error) {
    throw fromNodeError(error, 'write', path);
  }
  syncPath(path);
}

/** A folder that a machine is restored from. What is in it is untrusted. */
export class Snapshot implements Disposable {
  /** Absolute path. */
  readonly folder: string;
  /** The configuration of the machine, as it was saved: to be validated. */
  readonly config: Readonly<Record<string, unknown>>;
  readonly sections: readonly StateSection[];
  /** Guest RAM. */
  readonly memory: Fd;
  readonly #scope: Scope;

  private constructor(folder: string, parts: Pick<Snapshot, 'config' | 'sections' | 'memory'>, scope: Scope) {
    this.folder = folder;
    this.config = parts.config;
    this.sections = parts.sections;
    this.memory = parts.memory;
    this.#scope = scope;
  }

  /**
   * Reads the configuration and the state, and opens the memory: all of one save, even if another one replaces the folder meanwhile.
   * @throws SysError ENOENT or ENOTDIR if there is no such folder; EINVAL, EBADMSG or ENOTSUP for what is no state, naming the
   *   section; ConfigError, InputFileError for a file that is missing or no such file. Nothing stays open
   */
  static open(path: string): Snapshot {
    const folder = resolve(path);
    using scope = new Scope();
    const flags = constants.O_RDONLY | constants.O_DIRECTORY;
    const { number } = scope.own(Fd.open(folder, flags, 'it takes the folder that a snapshot was saved to'));
    const inside = (name: string) => `/proc/self/fd/${number}/${name}`;
    const named = <T>(read: () => T): T => {
      try {
        return read();
      } catch (error) {
        throw renamed(error, `/proc/self/fd/${number}`, folder);
      }
    };
    const config = named(() => readConfigFile(inside(CONFIG)));
    const state = named(() => readInputFile(inside(STATE), MOST_STATE_BYTES));
    const sections = decodeSections(state, join(folder, STATE));
    const memory = named(() => Fd.open(inside(MEMORY), constants.O_RDONLY | constants.O_NONBLOCK));
    using undo = new Scope();
    undo.own(memory);
    if (!fstatSync(memory.number).isFile()) throw noMemory(folder, 'it is no regular file');
    return new Snapshot(folder, { config, sections, memory }, undo.move());
  }

  /** @throws SysError EINVAL unless the memory has exactly these bytes: an access beyond the file's end would end the process */
  checkMemory(bytes: bigint): void {
    const { size } = fstatSync(this.memory.number);
    if (BigInt(size) !== bytes)
      throw noMemory(this.folder, `it has ${size} bytes, and the machine ${bytes} of memory`);
  }

  /** Closes the memory; what is mapped of it stays. */
  [Symbol.dispose](): void {
    this.#scope[Symbol.dispose]();
  }
}

const noMemory = (folder: string, hint: string): SysError =>
  new SysError({ call: 'restore', target: join(folder, MEMORY), errno: errno.EINVAL, hint });

/** The same error, with the folder's own name. */
function renamed(error: unknown, from: string, to: string): unknown {
  const text = (given: string) => given.replaceAll(from, to);
  if (error instanceof ConfigError)
    return new ConfigError(error.problems.map((problem) => ({ path: 'restore', text: text(problem.text) })));
  if (error instanceof InputFileError) return new InputFileError(text(error.message), error.cause);
  if (!(error instanceof SysError)) return error;
  const { call, target, errno: code, hint } = error;
  return new SysError({ call, target: text(target), errno: code, hint });
}

/** @throws SysError EINVAL for a relative path: whose would it be? */
export function checkFolder(folder: string): void {
  if (isAbsolute(folder)) return;
  const hint = 'the folder is to be an absolute path';
  throw new SysError({ call: 'snapshot', target: `'${folder}'`, errno: errno.EINVAL, hint });
}

export const sandboxed = (folder: string): SysError =>
  new SysError({
    call: 'snapshot',
    target: folder,
    errno: errno.EPERM,
    hint: 'its sandbox forbids what that takes: start the machine without one',
  });
