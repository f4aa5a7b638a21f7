/** A client that says what a test wants it to say, in the server's own thread. */
import type { Fd } from '../../../sys/fd.js';
import { Scope } from '../../../sys/scope.js';
import { unixSocketPair } from '../../../sys/unix-socket.js';
import { Channel, type Message } from '../channel.js';
import { encodeCommand } from '../message.js';
import { MAJOR, MAX_ANSWER_FDS, MINOR, VFIO_USER_VERSION } from '../protocol.js';
import { Session } from '../server/session.js';
import { encodeVersion } from '../version.js';
import { type Card, hostCard } from './card.js';

/** What QEMU 11 proposes. */
export const QEMU_CAPABILITIES = {
  maxMsgFds: 16,
  maxDataXferSize: 1 << 20,
  maxDmaMaps: 65_535,
  pgsizes: 4096,
  hasWriteMultiple: true,
  twinSocket: undefined,
} as const;

/** A message whose payload stays. */
export interface Answer extends Omit<Message, 'fds'> {
  readonly fds: readonly Fd[];
}

export class RawClient implements Disposable {
  readonly channel: Channel;
  readonly session: Session;
  readonly card: Card;
  readonly #scope: Scope;
  #lastId = 0;

  /** @param replyMs how long the server waits for this client */
  constructor(trustsClient = false, replyMs = 10) {
    this.#scope = new Scope();
    const host = this.#scope.own(hostCard());
    const [near, far] = unixSocketPair('vfio-user test');
    this.card = host.card;
    this.channel = this.#scope.own(new Channel(near, MAX_ANSWER_FDS));
    this.channel.setTimeouts(5, 1000);
    this.session = this.#scope.own(
      new Session(new Channel(far), host.open(), { trustsClient, waitMs: 5, replyMs }),
    );
  }

  /** Sends bytes as they are. */
  send(bytes: Uint8Array, fds: readonly number[] = []): void {
    this.channel.send(bytes, fds);
  }

  /** Lets the server work until it has nothing to do. @throws what ends the connection */
  settle(): void {
    while (this.session.step(false));
  }

  /** The next message from the server; descriptors are the caller's. */
  receive(): Answer | undefined {
    const message = this.channel.receive(false);
    return message && { ...message, payload: message.payload.slice(), fds: message.fds.splice(0) };
  }

  /** Sends a command, and returns its answer. */
  ask(command: number, payload?: Uint8Array, fds: readonly number[] = []): Answer {
    const id = ++this.#lastId & 0xffff;
    this.send(encodeCommand(id, command, payload), fds);
    this.settle();
    const answer = this.receive();
    if (answer === undefined || answer.id !== id || answer.command !== command)
      throw new RangeError(`no answer to ${command}: ${JSON.stringify(answer)}`);
    return answer;
  }

  /** Agrees on versions, as QEMU does if not told otherwise. */
  negotiate(capabilities: Parameters<typeof encodeVersion>[0]['capabilities'] = QEMU_CAPABILITIES): Answer {
    return this.ask(VFIO_USER_VERSION, encodeVersion({ major: MAJOR, minor: MINOR, capabilities }, false));
  }

  [Symbol.dispose](): void {
    this.#scope[Symbol.dispose]();
  }
}
