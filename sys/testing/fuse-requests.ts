/** For tests: requests of the kernel to a file system in user space, and whether this machine can mount one. */
import { mkdtempSync, readFileSync, rmdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { FuseMount } from '../fuse-mount.js';
import * as fuse from '../fuse-protocol.js';
import { FuseTree } from '../fuse-tree.js';

/** Bytes of a request. @param len what its header says of its length, if that is not true */
export function fuseRequest(opcode: number, nodeid: number, body: Uint8Array, len?: number): Uint8Array {
  const bytes = fuse.InHeader.encode(
    { opcode, unique: 7n, nodeid: BigInt(nodeid), pid: 42, len: len ?? fuse.InHeader.size + body.length },
    body.length,
  );
  bytes.set(body, fuse.InHeader.size);
  return bytes;
}

/** A name as the kernel sends it. */
export const nameBytes = (name: string): Uint8Array => Buffer.from(`${name}\0`);

/** Why nothing can be mounted here; undefined if it can. */
export function mountProblem(): string | undefined {
  const folder = mkdtempSync(join(tmpdir(), 'fuse-'));
  try {
    FuseMount.mount(folder, new FuseTree({ kind: 'folder', entries: () => ({}) }))[Symbol.dispose]();
    return undefined;
  } catch (error) {
    return (error as Error).message;
  } finally {
    rmdirSync(folder);
  }
}

/** The file systems of this package that are mounted at a place or below it. */
export const mountsAt = (folder: string): string[] =>
  readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .filter((line) => line.includes(` ${folder}`) && line.includes('fuse.tsvisor'));
