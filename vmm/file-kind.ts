import type { Stats } from 'node:fs';

/** What a file that is no regular one is, for messages: `a FIFO`; undefined for a regular file. */
export function kindOfFile(stats: Stats): string | undefined {
  if (stats.isFile()) return undefined;
  if (stats.isDirectory()) return 'a directory';
  if (stats.isFIFO()) return 'a FIFO';
  if (stats.isSocket()) return 'a socket';
  return stats.isBlockDevice() ? 'a block device' : 'a character device';
}
