/** What a serial port of the machine is connected to, as the configuration and the command line write it. */
import { lstatSync } from 'node:fs';
import { didYouMean } from '../sys/suggestion.js';
import { unixPathProblem } from '../sys/unix-socket.js';
import { outputFileProblem } from './output-file.js';

/** A parsed end. `stdio` is an observer's port that the command line connects to its terminal. */
export type SerialEnd =
  | { readonly kind: 'observer' | 'stdio' | 'pty' | 'none' }
  | { readonly kind: 'unix' | 'file'; readonly path: string };

/** A PC's. */
export const MOST_SERIAL_PORTS = 4;

const WORDS = ['observer', 'stdio', 'pty', 'none'] as const;
const FORMS = 'stdio, pty, unix:PATH, file:PATH or none';

/** @throws RangeError if it has none of the forms */
export function parseSerialEnd(text: string): SerialEnd {
  const word = WORDS.find((each) => each === text);
  if (word !== undefined) return { kind: word };
  const [, kind, path = ''] = /^(unix|file):(.*)$/s.exec(text) ?? [];
  if (kind === 'unix' || kind === 'file') return { kind, path };
  const [, given = ''] = /^([^:]*)/.exec(text) ?? [];
  throw new RangeError(`'${text}' is none of ${FORMS}${didYouMean(given, [...WORDS, 'unix:', 'file:'])}`);
}

/** Why a port cannot have this end; undefined if it can, as far as that is known without opening it. */
export function serialEndProblem(text: string): string | undefined {
  try {
    const end = parseSerialEnd(text);
    if (!('path' in end)) return undefined;
    return end.kind === 'file' ? outputFileProblem(end.path) : socketProblem(end.path);
  } catch (error) {
    return (error as Error).message;
  }
}

/**
 * Why no socket can be made there, as far as that is known: one that nobody listens on is replaced, any other file is kept.
 */
export function socketProblem(path: string): string | undefined {
  const problem = unixPathProblem(path);
  if (problem !== undefined) return problem;
  const stats = lstatSync(path, { throwIfNoEntry: false });
  if (stats?.isSocket()) return undefined;
  return stats === undefined ? outputFileProblem(path) : `${path} exists, and is not a socket`;
}
