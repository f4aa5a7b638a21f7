/** A server in this thread, which works between the turns of the event loop, for a suite that does not block them. */
import { SysError } from '../../../../sys/error.js';
import type { Fd } from '../../../../sys/fd.js';
import { Scope } from '../../../../sys/scope.js';
import { unixSocketPair } from '../../../../sys/unix-socket.js';
import { Channel } from '../../channel.js';
import { FLAG_NO_REPLY, MAX_ANSWER_FDS } from '../../protocol.js';
import type { ServedDevice } from '../../server/session.js';
import { Session } from '../../server/session.js';
import { type Instead, type Kept, keep, send } from './kept.js';

/** What a wrong server does: breaks a rule. */
export interface Fault {
  /** A client's command, before the server has it; undefined leaves it as it is. */
  readonly command?: (message: Kept) => Instead | undefined;
  /** Said to the client at once, without the server, which does not get the command. */
  readonly answer?: (message: Kept) => Partial<Kept> | undefined;
  /** A reply, before the client has it. */
  readonly reply?: (reply: Kept, asked: Kept) => Instead | undefined;
}

/** Idle turns of the event loop before the server sleeps for a millisecond at a time. */
const TURNS = 256;
const STEP = { trustsClient: false, waitMs: 1, replyMs: 500 };

/** Serves clients that connect by {@link connect}, one after the other. */
export class InlineServer implements Disposable {
  readonly #open: () => ServedDevice;
  readonly #fault: Fault;
  readonly #waiting: Fd[] = [];
  #client: Client | undefined;
  #isOpen = true;
  /** Turns in a row without work. */
  #idle = 0;

  constructor(open: () => ServedDevice, fault: Fault = {}) {
    this.#open = open;
    this.#fault = fault;
    this.#turn();
  }

  /** A connected socket, the caller's. */
  connect(): Fd {
    const [near, far] = unixSocketPair('conformance');
    this.#waiting.push(far);
    return near;
  }

  #turn(): void {
    if (!this.#isOpen) return;
    this.#idle = this.#work() ? 0 : this.#idle + 1;
    if (this.#idle < TURNS) setImmediate(() => this.#turn());
    else setTimeout(() => this.#turn(), 1);
  }

  /** @returns whether there was something to do */
  #work(): boolean {
    if (this.#client === undefined) {
      const fd = this.#waiting.shift();
      if (fd === undefined) return false;
      this.#client = new Client(fd, this.#open(), this.#fault);
    }
    const done = this.#client.work();
    if (done !== 'ended') return done === 'some';
    this.#client[Symbol.dispose]();
    this.#client = undefined;
    return true;
  }

  [Symbol.dispose](): void {
    this.#isOpen = false;
    this.#client?.[Symbol.dispose]();
    for (const fd of this.#waiting) fd[Symbol.dispose]();
  }
}

/** A client's connection, and the server behind it. */
class Client implements Disposable {
  readonly #scope = new Scope();
  readonly #front: Channel;
  readonly #back: Channel;
  readonly #session: Session;
  readonly #fault: Fault;
  readonly #asked: Kept[] = [];

  constructor(fd: Fd, served: ServedDevice, fault: Fault) {
    this.#fault = fault;
    this.#front = this.#scope.own(new Channel(fd));
    const [near, far] = unixSocketPair('conformance server');
    this.#back = this.#scope.own(new Channel(near, MAX_ANSWER_FDS));
    this.#session = this.#scope.own(new Session(new Channel(far), served, STEP));
  }

  /** Serves all messages that are there. */
  work(): 'none' | 'some' | 'ended' {
    let done: 'none' | 'some' = 'none';
    try {
      for (let message = this.#front.receive(false); message !== undefined; ) {
        if (!this.#pass(keep(message))) return 'ended';
        done = 'some';
        message = this.#front.receive(false);
      }
      return done;
    } catch (error) {
      if (!(error instanceof SysError)) throw error;
      return 'ended';
    }
  }

  /** Passes on one command, and all replies. */
  #pass(message: Kept): boolean {
    const answer = this.#fault.answer?.(message);
    if (answer !== undefined) {
      send(this.#front, message, [{ flags: 1, payload: new Uint8Array(0), fds: [], ...answer }]);
      return true;
    }
    const instead = this.#fault.command?.(message) ?? [{}];
    if (instead === 'hang up') return false;
    send(this.#back, message, instead);
    if ((message.flags & (FLAG_NO_REPLY | 1)) === 0) this.#asked.push(message);
    let isOver = false;
    try {
      while (this.#session.step(false));
    } catch (error) {
      if (!(error instanceof SysError)) throw error;
      isOver = true;
    }
    for (let reply = this.#reply(); reply !== undefined; reply = this.#reply()) {
      const asked = this.#asked.shift() ?? message;
      const other = this.#fault.reply?.(reply, asked) ?? [{}];
      if (other === 'hang up') return false;
      send(this.#front, reply, other);
    }
    return !isOver;
  }

  #reply(): Kept | undefined {
    const message = this.#back.receive(false);
    return message && keep(message);
  }

  [Symbol.dispose](): void {
    this.#scope[Symbol.dispose]();
  }
}
