import { existsSync } from 'node:fs';
import { linkName, list, text } from '../sysfs.js';
import type { CheckEvidence } from './finding.js';

/** Longer content is cut. */
const MOST_CHARACTERS = 200;

/** A file and its content. */
export const fileSays = (path: string): CheckEvidence => {
  const content = text(path)?.replaceAll(/\s*\n\s*/g, '; ');
  if (content !== undefined) return { source: path, said: cut(content || 'empty') };
  return { source: path, said: existsSync(path) ? 'cannot be read' : 'no such file' };
};

/** A link and the name that it leads to. */
export const linkSays = (path: string): CheckEvidence => ({
  source: path,
  said: linkName(path) ?? 'no such link',
});

/** A folder and the names in it. */
export const folderSays = (path: string): CheckEvidence => {
  const names = list(path);
  return { source: path, said: names === undefined ? 'no such folder' : cut(names.join(' ') || 'empty') };
};

/** A file or a call, and what it said. */
export const says = (source: string, said: string): CheckEvidence => ({ source, said });

const cut = (content: string): string =>
  content.length <= MOST_CHARACTERS ? content : `${content.slice(0, MOST_CHARACTERS)} …`;
