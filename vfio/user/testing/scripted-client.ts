/** A client that says what a session has it say, in the server's own thread. */
import type { Fd } from '../../../sys/fd.js';
import { encodeMessage } from '../message.js';
import { FLAG_NO_REPLY, TYPE_COMMAND, TYPE_MASK } from '../protocol.js';
import { describe, type Frame, type Line } from './peers/session.js';
import type { RawClient } from './raw-client.js';

/**
 * Plays a session: what the client says in a row is sent without a pause, then the server works, then its answers are compared.
 * @param fds what the client sends, by name
 * @param taken descriptors of the server by name; the caller's
 * @throws Error where the server said something else than the session has, or more
 */
export function playClient(
  raw: RawClient,
  lines: readonly Line[],
  fds: Readonly<Record<string, Fd>>,
  taken: Map<string, Fd>,
): void {
  const open: number[] = [];
  for (let i = 0; i < lines.length; ) {
    for (; isFrom('client', lines[i]); i++) {
      const line = lines[i] as Frame;
      const { command, flags, errno, payload } = line;
      const id = line.id ?? i;
      if ((flags & (TYPE_MASK | FLAG_NO_REPLY)) === TYPE_COMMAND) open.push(id);
      const numbers = line.fds.map((name) => (fds[name] as Fd).number);
      raw.send(encodeMessage({ id, command, flags, errno }, payload), numbers);
    }
    raw.settle();
    for (; isFrom('server', lines[i]); i++) hear(raw, lines[i] as Frame, open, taken);
    const more = raw.receive();
    if (more === undefined) continue;
    for (const fd of more.fds) fd[Symbol.dispose]();
    throw new Error(`before line ${i + 1} of ${lines.length}: ${describe(more, more.fds.length)}`);
  }
}

const isFrom = (side: Frame['from'], line: Line | undefined): boolean =>
  line !== undefined && 'from' in line && line.from === side;

function hear(raw: RawClient, expected: Frame, open: number[], taken: Map<string, Fd>): void {
  const wanted = describe(expected, expected.fds.length);
  const got = raw.receive();
  for (const [i, fd] of (got?.fds ?? []).entries()) taken.set(expected.fds[i] ?? `more ${taken.size}`, fd);
  if (got === undefined) throw new Error(`never came: ${wanted}`);
  const text = describe(got, got.fds.length);
  if (text !== wanted) throw new Error(`expected ${wanted}\nbut got ${text}`);
  if ((got.flags & TYPE_MASK) === TYPE_COMMAND) return;
  const id = open.shift();
  if (got.id !== id) throw new Error(`an answer with id ${got.id} to ${id}: ${text}`);
}
