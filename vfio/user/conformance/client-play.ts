/** One attach of a client, to which a server is played: answers it, asks it, and never waits for it without a limit. */
import { isErrno, SysError } from '../../../sys/error.js';
import type { Fd } from '../../../sys/fd.js';
import { Scope } from '../../../sys/scope.js';
import { type UnixListener, unixSocketPair } from '../../../sys/unix-socket.js';
import { Channel, type Message } from '../channel.js';
import { encodeMessage } from '../message.js';
import {
  commandName,
  FLAG_ERROR,
  FLAG_NO_REPLY,
  MAJOR,
  MINOR,
  TYPE_COMMAND,
  TYPE_MASK,
  TYPE_REPLY,
  VFIO_USER_DMA_READ,
  VFIO_USER_DMA_UNMAP,
  VFIO_USER_VERSION,
} from '../protocol.js';
import { Audit, checkCapabilities, checkCommand } from './client-audit.js';
import { dmaAccess, version } from './payloads.js';
import { PlayedDevice, type Traits } from './played-device.js';
import { readVersion, type VersionReply } from './server-facts.js';
import { describe, type Heard, Pauses, sendPatiently } from './wire.js';

/** A client that has been started. Disposing ends it, however it is. */
export interface VfioUserClientUnderTest extends Partial<Disposable>, Partial<AsyncDisposable> {
  /** Settles when it has attached, or has given up. If absent, it has when it sends nothing for a while. */
  readonly attached?: Promise<unknown>;
  /** How it ended, if it crashed: asked when it is disposed. */
  readonly problem?: () => string | undefined;
}

/**
 * Starts a client that connects to the socket at `path`.
 * @param rule name of the rule that is played to it
 */
export type AttachVfioUserClient = (
  path: string,
  rule: string,
) => VfioUserClientUnderTest | Promise<VfioUserClientUnderTest>;

/** How long a client is waited for, in milliseconds. */
export interface Patience {
  /** For its connection. */
  readonly connectMs: number;
  /** For each answer, for its attach, and for its end. */
  readonly answerMs: number;
  /** Without a message, after which it has attached. */
  readonly settleMs: number;
}

/** A message of the server's. */
export interface Said {
  readonly id: number;
  readonly command: number;
  readonly flags: number;
  readonly errno: number;
  readonly payload: Uint8Array;
  readonly fds: readonly number[];
  /** Of the header, if it lies. */
  readonly size?: number;
  /** In how many pieces it comes, with pauses between them. */
  readonly pieces?: number;
  /** How much of it is sent. */
  readonly bytes?: number;
  /** The connection ends behind it. */
  readonly isLast?: boolean;
}

/** What comes instead of a reply; undefined leaves it as it is. */
export type Twist = (reply: Said, asked: Message, play: ClientPlay) => readonly Partial<Said>[] | undefined;

/** Nobody has come. */
export class ClientMissing extends Error {}

/** Messages of a client in one rule. */
const MOST_MESSAGES = 65_536;
/** More than a message can have. */
const MOST_FDS = 253;
const PIECE_PAUSE_MS = 30;
/** No client has mapped it. */
const NOWHERE = 0xf_ffff_ffff_f000n;

/** A socket on which the client is heard. */
interface Line {
  readonly channel: Channel;
  readonly isTwin: boolean;
}

export class ClientPlay implements AsyncDisposable {
  readonly audit = new Audit();
  readonly device: PlayedDevice;
  /** Whether the rule's twist was of any use. */
  hasTwisted = false;
  /** What the client asked for behind the twist. */
  next: string | undefined;
  /** What the client has proposed. */
  proposal: VersionReply | undefined;
  readonly #scope = new Scope();
  readonly #patience: Patience;
  readonly #offersTwin: boolean;
  readonly #twist: Twist | undefined;
  #client: VfioUserClientUnderTest | undefined;
  /** When it has, or has given up. */
  #attachedAt: number | undefined;
  #lines: Line[] = [];
  #messages = 0;
  #end: Heard | undefined;
  #lastId = 0x200;
  /** The command whose reply is held back, and that. */
  #holds: number | undefined;
  #held: Said | undefined;
  /** Requests whose replies have not come. */
  #awaited = 0;
  readonly #heard: Heard[] = [];

  private constructor(patience: Patience, { traits = {}, offersTwin = false, twist }: PlayOptions) {
    this.#patience = patience;
    this.#offersTwin = offersTwin;
    this.#twist = twist;
    this.device = this.#scope.own(new PlayedDevice(this.audit, traits));
  }

  /**
   * Starts a client, and waits for its connection. Without `attach`, whoever connects is the client.
   * @throws ClientMissing
   */
  static async start(
    listener: UnixListener,
    attach: AttachVfioUserClient | undefined,
    rule: string,
    patience: Patience,
    options: PlayOptions,
  ): Promise<ClientPlay> {
    const play = new ClientPlay(patience, options);
    try {
      // Of a client that has ended, and connects again and again.
      if (attach !== undefined)
        for (let late = listener.accept(); late !== undefined; late = listener.accept())
          late[Symbol.dispose]();
      play.#client = await attach?.(listener.path, rule);
      const done = () => {
        play.#attachedAt = performance.now();
      };
      if (play.#client?.attached === undefined) done();
      else play.#client.attached.then(done, done);
      play.#lines.push({ channel: await play.#accept(listener), isTwin: false });
      return play;
    } catch (error) {
      await play[Symbol.asyncDispose]();
      throw error;
    }
  }

  async #accept(listener: UnixListener): Promise<Channel> {
    const deadline = performance.now() + this.#patience.connectMs;
    const pauses = new Pauses();
    for (;;) {
      const fd = listener.accept(true);
      if (fd !== undefined) return this.#scope.own(new Channel(fd, MOST_FDS));
      if (performance.now() >= deadline) throw new ClientMissing('it does not connect');
      await pauses.next();
    }
  }

  /** How the connection ended; undefined while it is open. */
  get end(): Heard | undefined {
    return this.#end;
  }

  get answerMs(): number {
    return this.#patience.answerMs;
  }

  get hasTwin(): boolean {
    return this.#lines.some(({ isTwin }) => isTwin);
  }

  describe(heard: Heard): string {
    return describe(heard, this.#patience.answerMs);
  }

  /** Serves until the client has attached and is quiet, or the connection has ended, or patience has. */
  async settle(): Promise<void> {
    await this.until(() => false);
  }

  /** The same, but not longer than until `isThere`. @returns whether it is */
  async until(isThere: () => boolean): Promise<boolean> {
    const { answerMs, settleMs } = this.#patience;
    const start = performance.now();
    const pauses = new Pauses();
    let quiet = start;
    while (!isThere() && this.#end === undefined) {
      const now = performance.now();
      // A program may take its time to begin.
      const hasBegun = this.#messages > 0 || this.#client?.attached !== undefined;
      const since = hasBegun && this.#attachedAt !== undefined ? Math.max(quiet, this.#attachedAt) : now;
      const idle = now - since;
      if (now - start >= answerMs || idle >= settleMs) break;
      if (await this.#turn()) quiet = performance.now();
      else await pauses.next();
    }
    return isThere();
  }

  /** Serves until the client sends this command, and returns its reply, unsent; undefined if it never does. */
  async hold(command: number): Promise<Said | undefined> {
    this.#held = undefined;
    this.#holds = command;
    await this.until(() => this.#held !== undefined);
    this.#holds = undefined;
    return this.#held;
  }

  /** Sends a request of the server, where the client expects it; or what else has its flags. */
  async send(said: Partial<Said> & { readonly command: number }): Promise<void> {
    const whole = this.#whole(said);
    const isReply = (whole.flags & TYPE_MASK) === TYPE_REPLY;
    await this.#say(isReply ? this.#lines[0] : this.#lines.at(-1), whole);
  }

  /** Sends messages in one piece. */
  async sendJoined(all: readonly (Partial<Said> & { readonly command: number })[]): Promise<void> {
    const bytes = all.map((each) => {
      const { payload, fds: _none, ...header } = this.#whole(each);
      return encodeMessage(header, payload);
    });
    const line = this.#lines[0];
    if (line !== undefined)
      await sendPatiently(line.channel, Uint8Array.from(Buffer.concat(bytes)), [], this.#patience.answerMs);
  }

  #whole(said: Partial<Said> & { readonly command: number }): Said {
    this.#lastId = (this.#lastId + 1) & 0xffff;
    const whole = { id: this.#lastId, flags: TYPE_COMMAND, errno: 0, payload: NOTHING, fds: [], ...said };
    if ((whole.flags & (TYPE_MASK | FLAG_NO_REPLY)) === TYPE_COMMAND) this.#awaited++;
    return whole;
  }

  /** Sends a request, and waits for the next reply, whatever that answers. */
  async ask(said: Partial<Said> & { readonly command: number }): Promise<Heard> {
    await this.send(said);
    return this.hear();
  }

  /** The next reply of the client's. Its commands are served meanwhile. */
  async hear(): Promise<Heard> {
    const deadline = performance.now() + this.#patience.answerMs;
    const pauses = new Pauses();
    for (;;) {
      const heard = this.#heard.shift();
      if (heard !== undefined) return heard;
      if (this.#end !== undefined) return this.#end;
      if (await this.#turn()) continue;
      if (performance.now() >= deadline) return { kind: 'silence' };
      await pauses.next();
    }
  }

  /** Why the client is neither serving nor gone; undefined if it is either. */
  async stuck(): Promise<string | undefined> {
    if (this.#end === undefined) {
      this.#awaited = 0;
      this.#heard.length = 0;
      const heard = await this.ask({ command: VFIO_USER_DMA_READ, payload: dmaAccess(NOWHERE, 16) });
      if (heard.kind === 'silence') return `to VFIO_USER_DMA_READ ${this.describe(heard)}`;
    }
    return this.#end?.kind === 'garbage' ? this.describe(this.#end) : undefined;
  }

  /** Ends the client. Returns what was wrong with its end. Serves it meanwhile. */
  async leave(): Promise<string | undefined> {
    const client = this.#client;
    this.#client = undefined;
    if (client === undefined) return undefined; // Whoever has connected is let go.
    let isOver = false;
    const over = this.#dispose(client).finally(() => {
      isOver = true;
    });
    over.catch(() => {}); // awaited below
    const deadline = performance.now() + this.#patience.answerMs;
    const pauses = new Pauses();
    while (!(isOver && this.#end !== undefined) && performance.now() < deadline)
      if (!(await this.#turn())) await pauses.next();
    if (!isOver) return `it has not ended in ${this.#patience.answerMs / 1000} s`;
    await over;
    if (this.#end === undefined) return 'it leaves the connection open';
    return client.problem?.();
  }

  async #dispose(client: VfioUserClientUnderTest): Promise<void> {
    const dispose = client[Symbol.asyncDispose] ?? client[Symbol.dispose];
    await dispose?.call(client);
  }

  /** Serves a message, if there is one. @returns whether there was */
  async #turn(): Promise<boolean> {
    for (const line of this.#lines) {
      const message = this.#receive(line);
      if (message === undefined) continue;
      if (++this.#messages > MOST_MESSAGES)
        this.#close({ kind: 'garbage', text: `more than ${MOST_MESSAGES} messages` });
      else if ((message.flags & TYPE_MASK) === TYPE_COMMAND) await this.#serve(line, message);
      else this.#take(message);
      return true;
    }
    return false;
  }

  #receive({ channel }: Line): Message | undefined {
    if (this.#end !== undefined) return undefined;
    try {
      return channel.receive(false);
    } catch (error) {
      if (!(error instanceof SysError)) throw error;
      this.#close(
        isErrno(error, 'ECONNRESET')
          ? { kind: 'closed' }
          : { kind: 'garbage', text: error.hint ?? error.message },
      );
      return undefined;
    }
  }

  #close(end: Heard): void {
    this.#end ??= end;
    for (const { channel } of this.#lines.splice(0)) channel[Symbol.dispose]();
  }

  #take({ id, command, size, flags, errno, payload }: Message): void {
    const isAwaited = this.#awaited > 0;
    this.audit.check('command-type', isAwaited, () => `a reply to ${commandName(command)}, unasked`);
    if (!isAwaited) return;
    this.#awaited--;
    const reply = { id, command, size, flags, errno, payload: payload.slice(), fds: [] };
    this.#heard.push({ kind: (flags & FLAG_ERROR) === 0 ? 'reply' : 'error', reply });
  }

  async #serve(line: Line, message: Message): Promise<void> {
    const { id, command, flags } = message;
    checkCommand(this.audit, message, {
      isFirst: this.#messages === 1,
      isAgreed: this.proposal !== undefined,
    });
    // A client that gives up may unmap.
    if (this.hasTwisted && command !== VFIO_USER_DMA_UNMAP) this.next ??= commandName(command);
    const twinFds: Fd[] = [];
    const answered =
      command === VFIO_USER_VERSION ? this.#agree(message, twinFds) : this.device.answer(message);
    const reply =
      'errno' in answered
        ? { flags: TYPE_REPLY | FLAG_ERROR, errno: answered.errno, payload: NOTHING, fds: [] }
        : { flags: TYPE_REPLY, errno: 0, payload: answered.payload, fds: answered.fds ?? [] };
    const whole = { id, command, ...reply };
    if ((flags & FLAG_NO_REPLY) === 0) await this.#reply(line, whole, message);
    for (const fd of twinFds) fd[Symbol.dispose]();
  }

  async #reply(line: Line, reply: Said, asked: Message): Promise<void> {
    if (this.#held === undefined && this.#holds === asked.command) {
      this.#held = reply;
      this.hasTwisted = true;
      return;
    }
    const twisted = this.#twist?.(reply, asked, this);
    if (twisted !== undefined) this.hasTwisted = true;
    for (const each of twisted ?? [{}]) await this.#say(line, { ...reply, ...each });
  }

  #agree(
    { payload }: Message,
    owned: Fd[],
  ): { readonly payload: Uint8Array; readonly fds?: readonly number[] } {
    const proposal = readVersion({ payload });
    this.proposal = proposal;
    checkCapabilities(this.audit, proposal?.capabilities ?? {});
    const minor = Math.min(proposal?.minor ?? 0, MINOR);
    const twin = proposal?.capabilities?.twin_socket as { supported?: unknown } | null | undefined;
    const { capabilities } = this.device;
    if (!this.#offersTwin || twin?.supported !== true)
      return { payload: version({ capabilities }, MAJOR, minor) };
    const [near, far] = unixSocketPair('twin socket');
    owned.push(far);
    this.#lines.push({ channel: this.#scope.own(new Channel(near, MOST_FDS)), isTwin: true });
    const twinSocket = { supported: true, fd_index: 0 };
    return {
      payload: version({ capabilities: { ...capabilities, twin_socket: twinSocket } }, MAJOR, minor),
      fds: [far.number],
    };
  }

  async #say(line: Line | undefined, said: Said): Promise<void> {
    if (line === undefined || this.#end !== undefined) return;
    const { payload, fds, size, pieces = 1, isLast = false, ...header } = said;
    const whole = encodeMessage(header, payload);
    if (size !== undefined) new DataView(whole.buffer).setUint32(4, size, true);
    const message = whole.subarray(0, said.bytes ?? whole.length);
    const step = Math.max(1, Math.ceil(message.length / pieces));
    for (let at = 0; at < message.length; at += step) {
      if (at > 0) await new Promise((resolve) => setTimeout(resolve, PIECE_PAUSE_MS));
      const piece = message.slice(at, at + step);
      await sendPatiently(line.channel, piece, at === 0 ? fds : [], this.#patience.answerMs);
    }
    if (isLast) this.#close({ kind: 'closed' });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.leave();
    } finally {
      this.#scope[Symbol.dispose]();
    }
  }
}

/** How a rule's server differs. */
export interface PlayOptions {
  readonly traits?: Traits;
  readonly offersTwin?: boolean;
  readonly twist?: Twist;
}

const NOTHING = new Uint8Array(0);
