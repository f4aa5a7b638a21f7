import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { expected } from '../../sys/suggestion.js';
import { unknownOption } from '../../vfio/option-problem.js';
import type { NetBackend } from '../net/index.js';
import { MOST_PAIRS } from './queue-layout.js';

/** Parsed options of a device. */
export interface VirtioNetOptions {
  /** Back-end and its address: `net=tap:tap0`. */
  readonly backend: string;
  readonly address: string;
  /** 6 bytes. */
  readonly mac: Uint8Array;
  /** Whether it was given, and not derived. */
  readonly isMacGiven: boolean;
  /** Longest IP packet in bytes. */
  readonly mtu: number;
  /** Whether to offer the offloads that the back-end has. */
  readonly hasOffloads: boolean;
  /** Queue pairs. */
  readonly queues: number;
  /** File that its frames are captured in; undefined for none. */
  readonly pcap: string | undefined;
}

const NAMES = ['net', 'mac', 'mtu', 'offloads', 'queues', 'pcap'];
const DEFAULT_MTU = 1500;
// 5.1.4.1
const LEAST_MTU = 68;
const MOST_MTU = 65535;

export const QUEUES_RANGE = `1 to ${MOST_PAIRS}`;
export const MTU_RANGE = `${LEAST_MTU} to ${MOST_MTU}, by default ${DEFAULT_MTU}`;

/**
 * Parses `net=BACKEND[:ADDRESS]`, `mac=52:54:00:12:34:56`, `mtu=1500`, `offloads=on`, `queues=1` and `pcap=FILE`. Without `mac` the address is derived from the
 * UUID, so that it is stable; without `net` the first back-end is used.
 * @throws SysError EINVAL with a hint that lists all problems
 */
export function parseOptions(
  options: Readonly<Record<string, string>>,
  uuid: string,
  backends: readonly NetBackend[],
): VirtioNetOptions {
  const problems: string[] = [];
  for (const name of Object.keys(options)) {
    if (!NAMES.includes(name)) problems.push(unknownOption(name, NAMES));
  }
  const { net = backends[0]?.name ?? '', mac, mtu = String(DEFAULT_MTU), offloads = 'on' } = options;
  const { queues = '1', pcap } = options;
  const pairs = /^[0-9]{1,3}$/.test(queues) ? Number(queues) : 0;
  const hasPairs = pairs >= 1 && pairs <= MOST_PAIRS;
  const [, backend = '', address = ''] = /^([^:]*):?(.*)$/s.exec(net) ?? [];
  const found = backends.find(({ name }) => name === backend);
  const names = backends.map(({ name }) => name);
  const problem =
    found === undefined
      ? `no back-end ${JSON.stringify(backend)}${expected(backend, names, names.join(' or '))}`
      : found.validate(address, hasPairs && found.openPair !== undefined ? pairs : 1);
  if (problem !== undefined) problems.push(`net: ${problem}`);
  const macBytes = mac === undefined ? macFrom(uuid) : parseMac(mac);
  if (macBytes === undefined)
    problems.push(`mac: ${mac} is not the address of one station (52:54:00:12:34:56)`);
  const mtuValue = /^[0-9]{1,5}$/.test(mtu) ? Number(mtu) : 0;
  if (mtuValue < LEAST_MTU || mtuValue > MOST_MTU) {
    problems.push(`mtu: ${mtu} is not a number from ${LEAST_MTU} to ${MOST_MTU}`);
  }
  if (!hasPairs) problems.push(`queues: ${queues} is not a number from ${QUEUES_RANGE}`);
  else if (pairs > 1 && found !== undefined && found.openPair === undefined) {
    const others = backends.flatMap(({ name, openPair }) => (openPair === undefined ? [] : [name]));
    const hint = others.length === 0 ? '' : `; ${others.join(', ')} take more`;
    problems.push(`queues: net=${backend} has one queue pair, so it takes queues=1${hint}`);
  }
  if (pcap === '' || pcap?.includes('\0')) problems.push('pcap: it takes the path of a file');
  if (offloads !== 'on' && offloads !== 'off') problems.push(`offloads: ${offloads} is neither on nor off`);
  if (problems.length > 0 || macBytes === undefined) {
    const target = `virtio-net ${uuid}`;
    throw new SysError({ call: 'mdev create', target, errno: errno.EINVAL, hint: problems.join('; ') });
  }
  const hasOffloads = offloads === 'on';
  const isMacGiven = mac !== undefined;
  return { backend, address, mac: macBytes, isMacGiven, mtu: mtuValue, hasOffloads, queues: pairs, pcap };
}

/** A unicast MAC address that is not all zeroes. */
function parseMac(text: string): Uint8Array | undefined {
  if (!/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i.test(text)) return undefined;
  const bytes = Uint8Array.from(text.split(':'), (byte) => Number.parseInt(byte, 16));
  return ((bytes[0] as number) & 1) === 0 && bytes.some((byte) => byte !== 0) ? bytes : undefined;
}

/** Locally administered, in the range that virtual machines commonly use: the rest is the UUID's FNV-1a hash. */
function macFrom(uuid: string): Uint8Array {
  let hash = 0x811c9dc5;
  for (const byte of Buffer.from(uuid)) hash = Math.imul(hash ^ byte, 0x01000193);
  return Uint8Array.of(0x52, 0x54, 0x00, hash >> 16, hash >> 8, hash);
}
