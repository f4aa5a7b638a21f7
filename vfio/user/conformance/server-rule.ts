/** A rule for servers, and the connection on which it is played. */
import { errnoName } from '../../../sys/errno.js';
import { isErrno, SysError } from '../../../sys/error.js';
import type { Fd } from '../../../sys/fd.js';
import { connectUnix } from '../../../sys/unix-socket.js';
import { encodeCommand } from '../message.js';
import { VFIO_USER_DEVICE_GET_INFO, VFIO_USER_VERSION } from '../protocol.js';
import { PROPOSAL, question, version } from './payloads.js';
import { failed, inapplicable, type Outcome, passed } from './report.js';
import type { ServerFacts } from './server-facts.js';
import { describe, type Heard, isError, isSuccess, Pauses, type Reply, Wire } from './wire.js';

export interface ServerRule {
  readonly name: string;
  readonly section: string;
  readonly sent: string;
  readonly expected: string;
  /** It begins before a version is agreed on. */
  readonly isFresh?: boolean;
  /** @throws PeerGone if the server cannot be reached any more */
  play(play: Play): Promise<Outcome>;
}

/** The server cannot be reached, or no longer agrees on a version. */
export class PeerGone extends Error {}

/** Path of a server's socket, or a function that returns a connected one. */
export type ServerAddress = string | (() => Fd | Promise<Fd>);

/** Connects, waiting for a place among those that wait. @throws SysError as connect(2) */
async function connect(address: ServerAddress, patienceMs: number): Promise<Fd> {
  if (typeof address !== 'string') return address();
  const deadline = performance.now() + patienceMs;
  const pauses = new Pauses();
  for (;;) {
    try {
      return connectUnix(address, true);
    } catch (error) {
      if (!isErrno(error, 'EAGAIN') || performance.now() >= deadline) throw error;
      await pauses.next();
    }
  }
}

/** One rule's use of a server. Disposing closes the connection. */
export class Play implements Disposable {
  readonly facts: ServerFacts;
  readonly #address: ServerAddress;
  readonly #patienceMs: number;
  #wire: Wire;
  #hasVersion = false;

  private constructor(address: ServerAddress, patienceMs: number, facts: ServerFacts, wire: Wire) {
    this.#address = address;
    this.#patienceMs = patienceMs;
    this.facts = facts;
    this.#wire = wire;
  }

  /** Connects. @throws SysError as connect(2) */
  static async start(address: ServerAddress, patienceMs: number, facts: ServerFacts): Promise<Play> {
    return new Play(address, patienceMs, facts, new Wire(await connect(address, patienceMs), patienceMs));
  }

  /** Another one, which agrees on a version. @throws SysError as connect(2); PeerGone */
  async again(facts = this.facts): Promise<Play> {
    const play = await Play.start(this.#address, this.#patienceMs, facts);
    try {
      await play.negotiate();
      return play;
    } catch (error) {
      play[Symbol.dispose]();
      throw error;
    }
  }

  get wire(): Wire {
    return this.#wire;
  }

  get patienceMs(): number {
    return this.#patienceMs;
  }

  /** Agrees on a version. @throws PeerGone */
  async negotiate(): Promise<void> {
    const heard = await this.#wire.ask(VFIO_USER_VERSION, version(PROPOSAL));
    if (!isSuccess(heard))
      throw new PeerGone(`it does not agree on a version: ${describe(heard, this.#patienceMs)}`);
    this.#hasVersion = true;
  }

  /** Ends the connection, and begins another one. @throws PeerGone */
  async reconnect(isFresh = false): Promise<Wire> {
    this.#wire[Symbol.dispose]();
    this.#hasVersion = false;
    try {
      this.#wire = new Wire(await connect(this.#address, this.#patienceMs), this.#patienceMs);
    } catch (error) {
      if (error instanceof SysError) throw new PeerGone(`it cannot be reached: ${error.code}`);
      throw error;
    }
    if (!isFresh) await this.negotiate();
    return this.#wire;
  }

  describe(heard: Heard): string {
    return describe(heard, this.#patienceMs);
  }

  /**
   * After something odd: undefined if this connection goes on, or has ended, or never had a version, and the next client is
   * served.
   * @throws PeerGone
   */
  async notServing(heard: Heard): Promise<string | undefined> {
    if (heard.kind === 'closed' || !this.#hasVersion) await this.reconnect();
    const info = await this.#wire.ask(VFIO_USER_DEVICE_GET_INFO, question(16));
    if (isSuccess(info)) return undefined;
    if (heard.kind !== 'closed' && info.kind === 'closed') return this.notServing(info);
    return this.describe(info);
  }

  [Symbol.dispose](): void {
    this.#wire[Symbol.dispose]();
  }
}

/** A command to send; or `raw`, the bytes of a message as they are. */
export interface Ask {
  readonly command: number;
  readonly payload?: Uint8Array;
  readonly fds?: readonly number[];
  readonly flags?: number;
  readonly raw?: Uint8Array;
}

/** What to send; a string says why the rule is not applicable. */
export type Asking = Ask | string | ((facts: ServerFacts) => Ask | string);

interface Row {
  readonly name: string;
  readonly section: string;
  readonly sent: string;
  readonly isFresh?: boolean;
  readonly ask: Asking;
}

/** Sends, and waits for a reply. */
export async function exchange({ wire }: Play, ask: Ask): Promise<Heard> {
  const { command, payload, fds = [], flags = 0, raw } = ask;
  await wire.send(raw ?? encodeCommand(0x55, command, payload, flags), fds);
  return wire.hear();
}

/** A rule that sends one message, and judges what comes. */
function asking(
  { name, section, sent, isFresh = false, ask }: Row,
  expected: string,
  judge: (play: Play, heard: Heard) => Outcome | Promise<Outcome>,
): ServerRule {
  return {
    name,
    section,
    sent,
    expected,
    isFresh,
    async play(play) {
      const asked = typeof ask === 'function' ? ask(play.facts) : ask;
      return typeof asked === 'string' ? inapplicable(asked) : judge(play, await exchange(play, asked));
    },
  };
}

/** A rule by which a message is answered. @param check says what is wrong with the reply */
export function answers(
  row: Row & {
    readonly expected: string;
    readonly check?: (reply: Reply, facts: ServerFacts) => string | undefined;
  },
): ServerRule {
  return asking(row, row.expected, (play, heard) => {
    const got = play.describe(heard);
    if (!isSuccess(heard)) return failed(got);
    const problem = guarded(() => row.check?.(heard.reply, play.facts));
    return problem === undefined ? passed(got) : failed(problem);
  });
}

/** What a rule expects whose message is to be refused, in whatever way. */
export const REFUSED = 'an error, or the end of the connection; then it goes on serving';

/** What a check says; a reply that ends too early for it is a problem, too. */
function guarded(check: () => string | undefined): string | undefined {
  try {
    return check();
  } catch (error) {
    if (error instanceof SysError || error instanceof RangeError)
      return error instanceof SysError ? (error.hint ?? error.message) : 'its payload is too short';
    throw error;
  }
}

/**
 * A rule by which a message is refused: by an error, after which the connection goes on, or by the connection's end, after
 * which the next client is served.
 * @param codes the errno that the specification names; any if absent
 */
export function refuses(row: Row & { readonly codes?: readonly number[] }): ServerRule {
  const { codes } = row;
  const expected =
    codes === undefined ? REFUSED : `error ${codes.map(errnoName).join(' or ')}; then it goes on serving`;
  return asking(row, expected, (play, heard) => refused(play, heard, codes));
}

/** The verdict on what should be a refusal. */
export async function refused(play: Play, heard: Heard, codes?: readonly number[]): Promise<Outcome> {
  const got = play.describe(heard);
  const isRefusal = isError(heard) || (heard.kind === 'closed' && codes === undefined);
  if (!isRefusal) return failed(got);
  if (isError(heard) && codes !== undefined && !codes.includes(heard.reply.errno)) return failed(got);
  return serving(play, heard);
}

/** Passed, if the server goes on serving after what came. */
async function serving(play: Play, heard: Heard): Promise<Outcome> {
  const got = play.describe(heard);
  const problem = await play.notServing(heard);
  return problem === undefined ? passed(got) : failed(`${got}, and to the next message: ${problem}`);
}

/** A rule by which a message may be answered, refused or ignored, and the server goes on serving. */
export function survives(row: Row): ServerRule {
  const expected = 'a reply, an error, or the end of the connection; then it goes on serving';
  return asking(row, expected, (play, heard) => {
    const isLost = heard.kind === 'silence' || heard.kind === 'garbage';
    return isLost ? failed(play.describe(heard)) : serving(play, heard);
  });
}
