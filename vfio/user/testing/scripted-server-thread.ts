/** A server that says what a session has it say, in a thread of its own: our client blocks while it waits for an answer. */
import { parentPort, workerData } from 'node:worker_threads';
import { isErrno } from '../../../sys/error.js';
import { signalEventfd } from '../../../sys/eventfd.js';
import type { Fd } from '../../../sys/fd.js';
import { poll } from '../../../sys/libc.js';
import { UnixListener } from '../../../sys/unix-socket.js';
import { Channel, type Message } from '../channel.js';
import { encodeMessage } from '../message.js';
import { FLAG_NO_REPLY, TYPE_COMMAND, TYPE_MASK } from '../protocol.js';
import { describe, type Frame, type Line } from './peers/session.js';

/** What the thread is started with. */
export interface ScriptedServerData {
  readonly path: string;
  /** Int32 [0]: 1 asks it to end. */
  readonly control: SharedArrayBuffer;
  readonly lines: readonly Line[];
  /** Descriptors that it sends, by name; of this process, and not its own. */
  readonly fds: Readonly<Record<string, number>>;
}

const { path, control, lines, fds } = workerData as ScriptedServerData;
const words = new Int32Array(control);
const POLLIN = 1;
const shallEnd = () => Atomics.load(words, 0) !== 0;

function accept(listener: UnixListener): Fd | undefined {
  const request = new Uint8Array(8);
  new DataView(request.buffer).setInt32(0, listener.fd.number, true);
  new DataView(request.buffer).setInt16(4, POLLIN, true);
  for (;;) {
    const isLast = shallEnd(); // asked before the look: what was sent until then is seen
    const fd = poll(request, 1, 20) > 0 ? listener.accept() : undefined;
    if (fd !== undefined || isLast) return fd;
  }
}

class Play implements Disposable {
  readonly #channel: Channel;
  /** Descriptors of the client, by name. */
  readonly #taken = new Map<string, Fd>();
  /** Ids of questions that await an answer. */
  readonly #open = { client: [] as number[], server: [] as number[] };
  #lastId = 0;
  /** A message that is sent with the next one. */
  #held = new Uint8Array(0);

  constructor(channel: Channel) {
    this.#channel = channel;
  }

  /** Returns what was wrong; undefined if all went by the book. */
  run(): string | undefined {
    for (const [i, line] of lines.entries()) {
      if ('signal' in line) signalEventfd((this.#taken.get(line.signal) as Fd).number);
      else if (line.from === 'server') this.#say(line);
      else {
        const problem = this.#hear(line);
        if (problem !== undefined) return `line ${i + 1} of ${lines.length}: ${problem}`;
      }
    }
    const more = this.#receive();
    return more && `after the last line: ${describe(more, more.fds.length)}`;
  }

  #receive(): Message | undefined {
    try {
      for (;;) {
        const isLast = shallEnd();
        const message = this.#channel.receive();
        if (message !== undefined || isLast) return message;
      }
    } catch (error) {
      if (!isErrno(error, 'ECONNRESET')) throw error;
      return undefined;
    }
  }

  #say({ command, flags, errno, payload, fds: names, id, cutAt, isJoined }: Frame): void {
    const isQuestion = (flags & TYPE_MASK) === TYPE_COMMAND;
    const theId = isQuestion ? (id ?? ++this.#lastId) : (id ?? this.#open.client.shift());
    if (isQuestion && theId !== undefined && (flags & FLAG_NO_REPLY) === 0) this.#open.server.push(theId);
    const own = encodeMessage({ id: theId ?? 0, command, flags, errno }, payload);
    const message = Uint8Array.from([...this.#held, ...own]);
    this.#held = isJoined ? message : new Uint8Array(0);
    if (isJoined) return;
    const numbers = names.map((name) => fds[name] as number);
    this.#channel.send(message.subarray(0, cutAt), numbers);
    if (cutAt === undefined) return;
    Atomics.wait(words, 0, 0, 5); // so that the client sees the first piece alone
    this.#channel.send(message.subarray(cutAt));
  }

  #hear(expected: Frame): string | undefined {
    const message = this.#receive();
    const wanted = describe(expected, expected.fds.length);
    if (message === undefined) return `never came: ${wanted}`;
    const got = describe(message, message.fds.length);
    if (got !== wanted) return `expected ${wanted}\nbut got ${got}`;
    if ((message.flags & TYPE_MASK) === TYPE_COMMAND) {
      if ((message.flags & FLAG_NO_REPLY) === 0) this.#open.client.push(message.id);
    } else if (this.#open.server.shift() !== message.id) return `an answer with id ${message.id}`;
    for (const [i, fd] of message.fds.splice(0).entries()) {
      const name = expected.fds[i] as string;
      this.#taken.get(name)?.[Symbol.dispose]();
      this.#taken.set(name, fd);
    }
    return undefined;
  }

  [Symbol.dispose](): void {
    for (const fd of this.#taken.values()) fd[Symbol.dispose]();
  }
}

function serve(): string | undefined {
  using listener = UnixListener.listen(path);
  parentPort?.postMessage('ready');
  const fd = accept(listener);
  if (fd === undefined) return 'nobody came';
  using channel = new Channel(fd);
  channel.setTimeouts(20, 1000);
  using play = new Play(channel);
  return play.run();
}

parentPort?.postMessage({ problem: serve() });
process.exit(0);
