/** Plays the rules of the protocol against a server. */
import { SysError } from '../../../sys/error.js';
import { VFIO_USER_VERSION } from '../protocol.js';
import { PROPOSAL, version } from './payloads.js';
import {
  failed,
  inapplicable,
  type Outcome,
  requireRules,
  resultOf,
  type VfioUserConformance,
  type VfioUserRuleResult,
} from './report.js';
import { LOGGING_RULES } from './rules-dma-logging.js';
import { INFORMATION_RULES } from './rules-information.js';
import { INTERRUPT_RULES } from './rules-interrupts.js';
import { MEMORY_RULES } from './rules-memory.js';
import { MESSAGE_RULES } from './rules-messages.js';
import { MIGRATION_RULES } from './rules-migration.js';
import { REGION_RULES } from './rules-regions.js';
import { VERSION_RULES } from './rules-version.js';
import { type ServerFacts, survey } from './server-facts.js';
import { PeerGone, Play, type ServerAddress, type ServerRule } from './server-rule.js';
import { isSuccess } from './wire.js';

/** By what they are about. */
export const SERVER_RULE_FAMILIES: readonly (readonly ServerRule[])[] = [
  VERSION_RULES,
  MESSAGE_RULES,
  INFORMATION_RULES,
  INTERRUPT_RULES,
  REGION_RULES,
  MEMORY_RULES,
  MIGRATION_RULES,
  LOGGING_RULES,
];

export const SERVER_RULES: readonly ServerRule[] = SERVER_RULE_FAMILIES.flat();

/** Names of the rules for servers, in their order. */
export const VFIO_USER_SERVER_RULES: readonly string[] = SERVER_RULES.map(({ name }) => name);

/** Options of {@link checkVfioUserServer}. */
export interface ServerCheckOptions {
  /** Names of the rules to play; all of {@link VFIO_USER_SERVER_RULES} if absent. */
  readonly only?: readonly string[];
  /** How long each reply may take, in milliseconds; 2000 if absent. */
  readonly patienceMs?: number;
  /** Called with each result when it is there. */
  readonly heard?: (result: VfioUserRuleResult) => void;
}

const PATIENCE_MS = 2000;
/** Rules in a row in which the server says nothing, after which it is not waited for any more. */
const MOST_SILENCES = 5;
const NOTHING: ServerFacts = {
  maxMsgFds: 1,
  maxDataXferSize: 1 << 20,
  hasWriteMultiple: false,
  hasReset: false,
  numRegions: 0,
  numIrqs: 0,
  regions: [],
  irqs: [],
  migration: undefined,
  hasLogging: false,
};

/**
 * Plays the rules of vfio-user against a server, each on a connection of its own, and tells which it keeps. Never waits for
 * the server without a limit, and keeps a bounded part of what it says, so that it can be any program.
 *
 * The device is used: its registers are read, PCI_INTERRUPT_LINE is written, it is reset, and its state is saved and loaded.
 * Do not point it at a device that somebody needs. Any thread; the server may be in the same one if it does not block it.
 * @param server path of its socket, or a function that returns a connected socket, which is then owned
 * @throws SysError ENOENT, ECONNREFUSED, EACCES if nobody can be reached at first; RangeError for an unknown rule
 */
export async function checkVfioUserServer(
  server: ServerAddress,
  { only, patienceMs = PATIENCE_MS, heard }: ServerCheckOptions = {},
): Promise<VfioUserConformance> {
  requireRules(only, VFIO_USER_SERVER_RULES);
  const results: VfioUserRuleResult[] = [];
  const tell = (result: VfioUserRuleResult): void => {
    results.push(result);
    heard?.(result);
  };
  let next = await lookAt(server, patienceMs);
  let silences = 0;
  for (const rule of SERVER_RULES) {
    if (only?.includes(rule.name) === false) continue;
    if (typeof next === 'string') {
      tell(resultOf(rule, inapplicable('not tried')));
      continue;
    }
    const played: Played = await playRule(rule, next);
    next = typeof played.next === 'string' ? `after ${rule.name}, ${played.next}` : played.next;
    silences = played.isSilent ? silences + 1 : 0;
    if (silences >= MOST_SILENCES && typeof next !== 'string') {
      next[Symbol.dispose]();
      next = `it has said nothing in ${MOST_SILENCES} rules in a row`;
    }
    tell(resultOf(rule, played.outcome));
  }
  if (typeof next === 'string') return { results, ended: next };
  next[Symbol.dispose]();
  return { results, ended: undefined };
}

/** Whether it serves at all, and a second client, and what it has; a string is the problem. */
async function lookAt(server: ServerAddress, patienceMs: number): Promise<Play | string> {
  using first = await Play.start(server, patienceMs, NOTHING);
  const agreed = await first.wire.ask(VFIO_USER_VERSION, version(PROPOSAL));
  if (!isSuccess(agreed)) return `it does not agree on version 0.2: ${first.describe(agreed)}`;
  const facts = await survey(first.wire, agreed);
  first[Symbol.dispose]();
  try {
    return await first.again(facts);
  } catch (error) {
    return `when its first client has gone, ${goneText(error)}`;
  }
}

interface Played {
  readonly outcome: Outcome;
  /** The connection of the next rule; or why no further rule can be played. */
  readonly next: Play | string;
  /** It said nothing until the end of the wait. */
  readonly isSilent: boolean;
}

/** @param play the rule's connection, which has a version; disposed here */
async function playRule(rule: ServerRule, play: Play): Promise<Played> {
  let outcome: Outcome;
  try {
    if (rule.isFresh) await play.reconnect(true);
    outcome = await rule.play(play);
  } catch (error) {
    outcome = failed(goneText(error));
  } finally {
    play[Symbol.dispose]();
  }
  const { isSilent } = play.wire;
  try {
    // Who does not survive a rule is found out in that rule.
    return { outcome, next: await play.again(), isSilent };
  } catch (error) {
    const gone = goneText(error);
    const got = outcome.got === gone ? gone : `${outcome.got}; then ${gone}`;
    return { outcome: failed(got), next: gone, isSilent };
  }
}

/** @throws what is no failure of the server's */
function goneText(error: unknown): string {
  if (error instanceof PeerGone) return error.message;
  if (error instanceof SysError) return `it cannot be reached: ${error.code}`;
  throw error;
}
