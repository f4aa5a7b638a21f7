/** The connection of a client to a server that answers in the same call, for tests of what is sent. */

import { SysError } from '../../../sys/error.js';
import type { Fd } from '../../../sys/fd.js';
import type { DmaTableWriter } from '../../dma-table.js';
import type { Connection, Request, RequestHandler } from '../client/connection.js';
import type { Capabilities } from '../version.js';

/** What the client has sent. */
export interface Sent {
  readonly command: number;
  readonly payload: readonly number[];
  readonly fds: readonly number[];
  readonly isPosted: boolean;
}

/** An answer; its descriptors are then the client's. */
export interface FakeAnswer {
  readonly payload?: Uint8Array | undefined;
  readonly fds?: readonly Fd[];
}

type Members = Pick<
  Connection,
  'path' | 'minor' | 'isGone' | 'dmaTable' | 'whenGone' | 'setHandler' | 'ask' | 'askEach' | 'post'
>;

export class FakeConnection implements Members {
  readonly path = '/run/fake.sock';
  minor = 2;
  isGone = false;
  dmaTable: DmaTableWriter | undefined;
  capabilities: Pick<Capabilities, 'maxMsgFds' | 'maxDataXferSize' | 'maxDmaMaps' | 'pgsizes'> = {
    maxMsgFds: 16,
    maxDataXferSize: 1 << 20,
    maxDmaMaps: 65_535,
    pgsizes: 4096,
  };
  readonly sent: Sent[] = [];
  handler: RequestHandler | undefined;
  readonly #answer: (sent: Sent) => FakeAnswer | Uint8Array | undefined;
  readonly #onGone: (() => void)[] = [];

  /** @param answer may throw a SysError, as a server that refuses */
  constructor(answer: (sent: Sent) => FakeAnswer | Uint8Array | undefined = () => undefined) {
    this.#answer = answer;
  }

  /** As what is under test takes it. */
  get it(): Connection {
    return this as unknown as Connection;
  }

  whenGone(callback: () => void): void {
    this.#onGone.push(callback);
  }

  /** The server disconnects. */
  hangUp(): void {
    this.isGone = true;
    for (const callback of this.#onGone.splice(0)) callback();
  }

  setHandler(handler: RequestHandler | undefined): void {
    this.handler = handler;
  }

  #note(command: number, payload: Uint8Array, fds: readonly number[], isPosted: boolean): Sent {
    const sent = { command, payload: [...payload], fds: [...fds], isPosted };
    this.sent.push(sent);
    return sent;
  }

  ask(command: number, payload: Uint8Array = new Uint8Array(0), fds: readonly number[] = [], mostFds = 0) {
    const answer = this.#answer(this.#note(command, payload, fds, false));
    const whole = answer instanceof Uint8Array ? { payload: answer } : answer;
    const given = [...(whole?.fds ?? [])];
    const taken = given.splice(0, mostFds);
    for (const fd of given) fd[Symbol.dispose]();
    return { payload: whole?.payload ?? new Uint8Array(0), fds: taken };
  }

  askEach(command: number, requests: Iterable<Request>): (SysError | undefined)[] {
    const errors: (SysError | undefined)[] = [];
    for (const { payload, fds } of requests) {
      try {
        this.ask(command, payload, fds);
        errors.push(undefined);
      } catch (error) {
        if (this.isGone || !(error instanceof SysError)) throw error;
        errors.push(error);
      }
    }
    return errors;
  }

  post(command: number, payload: Uint8Array): void {
    this.#note(command, payload, [], true);
  }

  /** What has been sent since the last call. */
  take(): Sent[] {
    return this.sent.splice(0);
  }
}
