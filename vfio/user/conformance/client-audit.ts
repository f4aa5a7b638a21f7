/** What a client's commands keep and break, by the name of a rule. */

import type { Message } from '../channel.js';
import {
  commandName,
  FLAG_NO_REPLY,
  MAJOR,
  TYPE_MASK,
  VFIO_USER_DMA_READ,
  VFIO_USER_DMA_WRITE,
  VFIO_USER_MIG_DATA_WRITE,
  VFIO_USER_VERSION,
} from '../protocol.js';
import { readVersion } from './server-facts.js';

const KNOWN_FLAGS = TYPE_MASK | FLAG_NO_REPLY;
/** VFIO_USER_DIRTY_PAGES of earlier versions. */
const REMOVED = 14;
const isCount = (value: unknown): boolean =>
  typeof value === 'number' && Number.isInteger(value) && value >= 0;
const CAPABILITY_TYPES: Readonly<Record<string, (value: unknown) => boolean>> = {
  max_msg_fds: isCount,
  max_data_xfer_size: isCount,
  max_dma_maps: isCount,
  pgsizes: isCount,
  write_multiple: (value) => typeof value === 'boolean',
  twin_socket: (value) => typeof (value as { supported?: unknown } | null)?.supported === 'boolean',
};

/** Texts are kept once for each rule: what a client sends cannot make this grow. */
export class Audit {
  readonly #seen = new Set<string>();
  readonly #problems = new Map<string, string>();

  /** Something came that the rule is about. The first problem is the rule's. */
  check(rule: string, isKept: boolean, problem: () => string): boolean {
    this.#seen.add(rule);
    if (!isKept && !this.#problems.has(rule)) this.#problems.set(rule, problem());
    return isKept;
  }

  /** Whether anything was about the rule. */
  has(rule: string): boolean {
    return this.#seen.has(rule);
  }

  problem(rule: string): string | undefined {
    return this.#problems.get(rule);
  }
}

/** Where a command stands among a client's messages. */
interface Turn {
  /** Whether it is the first one. */
  readonly isFirst: boolean;
  /** Whether the version has been negotiated. */
  readonly isAgreed: boolean;
}

/** Rules about any command of a client's. */
export function checkCommand(
  audit: Audit,
  { command, flags, payload }: Pick<Message, 'command' | 'flags' | 'payload'>,
  { isFirst, isAgreed }: Turn,
): void {
  const name = commandName(command);
  const isVersion = command === VFIO_USER_VERSION;
  if (isFirst) audit.check('version-first', isVersion, () => `${name} as the first message`);
  if (isAgreed) audit.check('version-once', !isVersion, () => 'a second VFIO_USER_VERSION');
  audit.check(
    'command-flags',
    (flags & ~KNOWN_FLAGS) === 0,
    () => `${name} with flags 0x${flags.toString(16)}`,
  );
  const isOfClients =
    command > 0 &&
    command <= VFIO_USER_MIG_DATA_WRITE &&
    ![VFIO_USER_DMA_READ, VFIO_USER_DMA_WRITE, REMOVED].includes(command);
  audit.check('command-known', isOfClients, () => name);
  if (!isVersion) return;
  const { problem, major } = readVersion({ payload }) ?? {
    problem: 'a payload without a version',
    major: 0,
  };
  audit.check('version-major', major === MAJOR, () => `major version ${major}`);
  audit.check('version-data', problem === undefined, () => problem ?? '');
}

/** The rule about what a client proposes. */
export function checkCapabilities(audit: Audit, capabilities: Readonly<Record<string, unknown>>): void {
  for (const [name, value] of Object.entries(capabilities)) {
    const isRight = CAPABILITY_TYPES[name]?.(value) ?? true;
    audit.check('version-capabilities', isRight, () => `${name} ${JSON.stringify(value)?.slice(0, 40)}`);
  }
}
