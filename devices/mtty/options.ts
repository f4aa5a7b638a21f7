import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { didYouMean } from '../../sys/suggestion.js';
import { unixPathProblem } from '../../sys/unix-socket.js';
import { unknownOption } from '../../vfio/option-problem.js';
import type { HostEnd } from '../line/messages.js';

const ENDS = 'loopback, pty or unix:PATH';

/**
 * Parses `port0=` and `port1=`: `loopback` (returns the guest's output to it; the default), `pty` or `unix:PATH`.
 * @returns by port: the host's end, or undefined for loopback
 * @throws SysError EINVAL with a hint that lists all problems
 */
export function parseOptions(
  options: Readonly<Record<string, string>>,
  ports: number,
  target: string,
): readonly (HostEnd | undefined)[] {
  const names = Array.from({ length: ports }, (_, i) => `port${i}`);
  const problems = Object.keys(options)
    .filter((name) => !names.includes(name))
    .map((name) => unknownOption(name, names));
  const ends = names.map((name) => {
    const end = parseEnd(options[name] ?? 'loopback');
    if (typeof end === 'string') problems.push(`${name}: ${end}`);
    return end;
  });
  if (problems.length > 0) {
    throw new SysError({ call: 'mdev create', target, errno: errno.EINVAL, hint: problems.join('; ') });
  }
  return ends as (HostEnd | undefined)[];
}

/** The end, or the problem with the text. */
function parseEnd(text: string): HostEnd | undefined | string {
  if (text === 'loopback') return undefined;
  if (text === 'pty') return { kind: 'pty', path: '' };
  if (!text.startsWith('unix:'))
    return `${JSON.stringify(text)} is none of ${ENDS}${didYouMean(text, ['loopback', 'pty', 'unix:'])}`;
  const path = text.slice('unix:'.length);
  return unixPathProblem(path) ?? { kind: 'connect', path };
}
