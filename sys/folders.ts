/** Folders that are written whole, or not at all. */
import { closeSync, fsyncSync, mkdtempSync, openSync, renameSync, rmSync } from 'node:fs';
import { dirname } from 'node:path';
import { fromNodeError, isErrno } from './error.js';
import { checked } from './fd.js';
import * as libc from './libc.js';

const RENAME_EXCHANGE = 2;

/**
 * Makes a folder of what `write` puts into it. Nobody sees it before it is whole and on the disk; one that is there already is
 * replaced at once, and stays as it was if anything fails. On a file system without RENAME_EXCHANGE there is none for a moment.
 * @param write puts files into the folder that it is given, each of which it syncs itself
 * @throws SysError of the call that failed; what `write` throws
 */
export function writeFolder(folder: string, write: (path: string) => void): void {
  let path: string;
  try {
    path = mkdtempSync(`${folder}.`);
  } catch (error) {
    throw fromNodeError(
      error,
      'mkdir',
      `${folder}.XXXXXX`,
      `the folder ${dirname(folder)} has to be there, and writable`,
    );
  }
  try {
    write(path);
    syncPath(path);
    replace(path, folder);
    syncPath(dirname(folder));
  } finally {
    // What was there before, or what is not whole.
    rmSync(path, { recursive: true, force: true });
  }
}

/** Flushes a file or folder to the disk. @throws SysError of open or fsync */
export function syncPath(path: string): void {
  try {
    const fd = openSync(path, 'r');
    try {
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    throw fromNodeError(error, 'fsync', path);
  }
}

/** Puts one folder where another one is, or none is; what was there is then at `path`. */
function replace(path: string, folder: string): void {
  try {
    checked(libc.renameat2(path, folder, RENAME_EXCHANGE), 'renameat2', folder);
    return;
  } catch (error) {
    if (!isErrno(error, 'ENOENT') && !isErrno(error, 'EINVAL')) throw error;
  }
  const aside = `${path}.old`;
  try {
    const isThere = tryRename(folder, aside);
    try {
      renameSync(path, folder);
    } catch (error) {
      if (isThere) renameSync(aside, folder);
      throw error;
    }
    if (isThere) renameSync(aside, path);
  } catch (error) {
    throw fromNodeError(error, 'rename', folder);
  }
}

function tryRename(from: string, to: string): boolean {
  try {
    renameSync(from, to);
    return true;
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return false;
    throw error;
  }
}
