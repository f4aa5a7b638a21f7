/** Plays the rules of the protocol to a client. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Scope } from '../../../sys/scope.js';
import { UnixListener } from '../../../sys/unix-socket.js';
import { type AttachVfioUserClient, ClientMissing, ClientPlay, type Patience } from './client-play.js';
import type { ClientRule } from './client-rule.js';
import {
  failed,
  inapplicable,
  type Outcome,
  requireRules,
  resultOf,
  type VfioUserConformance,
  type VfioUserRuleResult,
} from './report.js';
import { CLIENT_INFORMATION_RULES } from './rules-client-information.js';
import { CLIENT_MESSAGE_RULES } from './rules-client-messages.js';
import { CLIENT_REPLY_RULES } from './rules-client-replies.js';
import { CLIENT_REQUEST_RULES } from './rules-client-requests.js';
import { CLIENT_VERSION_RULES } from './rules-client-version.js';

/** By what they are about. */
export const CLIENT_RULE_FAMILIES: readonly (readonly ClientRule[])[] = [
  CLIENT_MESSAGE_RULES,
  CLIENT_VERSION_RULES,
  CLIENT_REPLY_RULES,
  CLIENT_INFORMATION_RULES,
  CLIENT_REQUEST_RULES,
];

export const CLIENT_RULES: readonly ClientRule[] = CLIENT_RULE_FAMILIES.flat();

/** Names of the rules for clients, in their order. */
export const VFIO_USER_CLIENT_RULES: readonly string[] = CLIENT_RULES.map(({ name }) => name);

/** Options of {@link checkVfioUserClient}. */
export interface ClientCheckOptions {
  /**
   * Starts the client, for each rule. If absent, whoever connects is the client of the next rule, and is disconnected when
   * that ends; `path` is then required.
   */
  readonly attach?: AttachVfioUserClient;
  /** Where the suite listens; a socket in a folder of its own if absent. */
  readonly path?: string;
  /** Names of the rules to play; all of {@link VFIO_USER_CLIENT_RULES} if absent. */
  readonly only?: readonly string[];
  /** How long each answer, the attach and the end of the client may take, in milliseconds; 10000 if absent. */
  readonly patienceMs?: number;
  /** How long its connection may take, in milliseconds; as `patienceMs` if absent. */
  readonly connectMs?: number;
  /** Time without a message, in milliseconds, after which it has attached; 300 if absent. */
  readonly settleMs?: number;
  /** Called with each result when it is there. */
  readonly heard?: (result: VfioUserRuleResult) => void;
}

const PATIENCE_MS = 10_000;
const SETTLE_MS = 300;

/**
 * Plays a server of vfio-user to a client, with a device that is right but for what each rule is about, and tells which rules
 * the client keeps. Each rule is one attach. Never waits for the client without a limit, and keeps a bounded part of what it
 * says, so that it can be any program.
 *
 * Any thread. A client in the same thread must not block it: ours does, so run it in a worker or a process.
 * @throws SysError as listening at `path`: EADDRINUSE, EACCES, ENOENT; RangeError for an unknown rule, or neither `attach` nor
 *   `path`; what `attach` throws
 */
export async function checkVfioUserClient(options: ClientCheckOptions): Promise<VfioUserConformance> {
  const { attach, only, patienceMs = PATIENCE_MS, settleMs = SETTLE_MS, heard } = options;
  requireRules(only, VFIO_USER_CLIENT_RULES);
  if (attach === undefined && options.path === undefined)
    throw new RangeError('a client is started by `attach`, or connects to `path`');
  const patience = { answerMs: patienceMs, connectMs: options.connectMs ?? patienceMs, settleMs };
  using scope = new Scope();
  const listener = scope.own(UnixListener.listen(options.path ?? join(folder(scope), 'device.sock')));
  const results: VfioUserRuleResult[] = [];
  let ended: string | undefined;
  for (const rule of CLIENT_RULES) {
    if (only?.includes(rule.name) === false) continue;
    let outcome = inapplicable('not tried');
    if (ended === undefined) {
      const played = await playRule(rule, listener, attach, patience);
      if (typeof played === 'string') {
        ended = results.length === 0 ? played : `before ${rule.name}, ${played}`;
      } else outcome = played;
    }
    const result = resultOf(rule, outcome);
    results.push(result);
    heard?.(result);
  }
  return { results, ended };
}

function folder(scope: Scope): string {
  const path = mkdtempSync(join(tmpdir(), 'vfio-user-client-'));
  scope.defer(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** @returns a text if nobody has connected */
async function playRule(
  rule: ClientRule,
  listener: UnixListener,
  attach: AttachVfioUserClient | undefined,
  patience: Patience,
): Promise<Outcome | string> {
  let play: ClientPlay;
  try {
    play = await ClientPlay.start(listener, attach, rule.name, patience, rule.options ?? {});
  } catch (error) {
    if (error instanceof ClientMissing) return error.message;
    throw error;
  }
  await using played = play;
  const outcome = await rule.play(played);
  if (outcome.verdict !== 'passed') return outcome;
  const problem = await played.leave();
  return problem === undefined ? outcome : failed(`${outcome.got}; then ${problem}`);
}
