/** A rule for clients: one attach, and the verdict on what the client does. */
import type { Message } from '../channel.js';
import { commandName, VFIO_USER_DMA_READ } from '../protocol.js';
import type { ClientPlay, PlayOptions, Said, Twist } from './client-play.js';
import { dmaAccess } from './payloads.js';
import type { PlayedMap } from './played-device.js';
import { failed, inapplicable, type Outcome, passed } from './report.js';
import { type Heard, isAnswer, isError } from './wire.js';

export interface ClientRule {
  readonly name: string;
  readonly section: string;
  readonly sent: string;
  readonly expected: string;
  readonly options?: PlayOptions;
  play(play: ClientPlay): Promise<Outcome>;
}

type Texts = Pick<ClientRule, 'name' | 'section' | 'sent' | 'expected'>;

/** What is said of a client that went on as it should. */
const AS_EXPECTED = 'that, in all that it sent';

/**
 * A rule that the client's own messages keep or break: {@link Audit} has it by its name.
 * @param isAbsence whether it is kept by sending nothing of the kind
 */
export function observes(
  texts: Omit<Texts, 'sent'> & { readonly sent?: string; readonly isAbsence?: boolean },
  options: PlayOptions = {},
): ClientRule {
  const { isAbsence = false, ...rest } = texts;
  return {
    sent: 'replies without a fault',
    ...rest,
    options,
    async play(play) {
      await play.settle();
      await play.leave();
      const problem = play.audit.problem(texts.name);
      if (problem !== undefined) return failed(problem);
      if (isAbsence || play.audit.has(texts.name)) return passed(AS_EXPECTED);
      return inapplicable('it sends nothing that the rule is about');
    },
  };
}

/** A rule by which something odd may be taken or refused: the client goes on, or ends the connection, and then ends. */
export function survives(
  texts: Omit<Texts, 'expected'> & { readonly expected?: string },
  options: PlayOptions,
): ClientRule {
  return {
    expected: 'the end of the connection, or a client that goes on; then it ends when it should',
    ...texts,
    options,
    async play(play) {
      await play.settle();
      if (!play.hasTwisted) return inapplicable('it does not send the command');
      return ending(play);
    },
  };
}

/** Passed if the client serves or has ended the connection, and then ends. */
export async function ending(play: ClientPlay, before = ''): Promise<Outcome> {
  const stuck = await play.stuck();
  if (stuck !== undefined) return failed(before + stuck);
  const got = play.end === undefined ? 'it goes on' : 'the end of the connection';
  const problem = await play.leave();
  return problem === undefined ? passed(before + got) : failed(`${before}${got}; then ${problem}`);
}

/** Another reply to a command. */
export const twisting =
  (command: number, twist: (reply: Said, asked: Message) => readonly Partial<Said>[] | undefined): Twist =>
  (reply, asked) =>
    asked.command === command ? twist(reply, asked) : undefined;

/** A rule by which the client takes nothing for the reply to a command but that: it does not go on to the next one. */
export function ignores(
  texts: Omit<Texts, 'expected'>,
  command: number,
  twist: (reply: Said, asked: Message) => readonly Partial<Said>[] | undefined,
): ClientRule {
  return {
    ...texts,
    expected: 'the end of the connection, or a client that goes on waiting for the reply',
    options: { twist: twisting(command, twist) },
    async play(play) {
      await play.settle();
      if (!play.hasTwisted) return inapplicable('it does not send the command');
      if (play.next !== undefined) return failed(`it goes on with ${play.next}`);
      return ending(play);
    },
  };
}

/** A map to ask for, of those that the client has made. */
export function mapOf(play: ClientPlay, rights: number, isExactly = false): PlayedMap | undefined {
  const fit = [...play.device.maps.values()].filter(
    ({ flags, size }) => size >= 4096n && (isExactly ? flags === rights : (flags & rights) === rights),
  );
  // The largest one is memory, if anything is.
  return fit.sort((a, b) => (a.size < b.size ? 1 : -1))[0];
}

/** A rule that asks the client for something, when it has attached. */
export function requests(
  texts: Texts,
  judge: (play: ClientPlay) => Promise<Outcome> | Outcome,
  options: PlayOptions = {},
): ClientRule {
  return {
    ...texts,
    options,
    async play(play) {
      await play.settle();
      if (play.end !== undefined) return failed(`before the request, ${play.describe(play.end)}`);
      if (options.offersTwin === true && !play.hasTwin) return inapplicable('it asks for no twin socket');
      return judge(play);
    },
  };
}

type Request = Partial<Said> & { readonly command: number };

/** A rule by which a request is refused by an error that is a header, or by the connection's end. */
export function refusesRequest(
  texts: Omit<Texts, 'expected'>,
  ask: Request | ((play: ClientPlay) => Request | string),
  options: PlayOptions = {},
): ClientRule {
  const expected =
    'an error that is a header and nothing else, after which it goes on, or the end of the connection';
  return requests(
    { ...texts, expected },
    async (play) => {
      const asked = typeof ask === 'function' ? ask(play) : ask;
      if (typeof asked === 'string') return inapplicable(asked);
      const heard = await play.ask(asked);
      const problem = refusalProblem(play, heard, asked.command);
      if (problem !== undefined) return failed(problem);
      return ending(play, `${play.describe(heard)}; `);
    },
    options,
  );
}

function refusalProblem(play: ClientPlay, heard: Heard, command: number): string | undefined {
  if (heard.kind === 'closed') return undefined;
  if (!isError(heard)) return play.describe(heard);
  const { payload, command: answered } = heard.reply;
  if (payload.length > 0) return `an error with a payload of ${payload.length} bytes`;
  return answered === command ? undefined : `an error to ${commandName(answered)}`;
}

/** A rule by which a request may be answered, refused or ignored. */
export function survivesRequest(
  texts: Omit<Texts, 'expected'>,
  send: (play: ClientPlay) => Promise<void> | string,
): ClientRule {
  const expected = 'a reply, an error, or the end of the connection; it goes on, or ends when it should';
  return requests({ ...texts, expected }, async (play) => {
    const sending = send(play);
    if (typeof sending === 'string') return inapplicable(sending);
    await sending;
    await play.settle();
    return ending(play);
  });
}

export const dmaRead = (at: number | bigint, count: number | bigint): Request => ({
  command: VFIO_USER_DMA_READ,
  payload: dmaAccess(at, count),
});

/** Whether it is a reply to this command, of either kind. */
export const answersTo = (heard: Heard, command: number): boolean =>
  isAnswer(heard) && heard.reply.command === command;
