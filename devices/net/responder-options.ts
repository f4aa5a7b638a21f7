import { expected } from '../../sys/suggestion.js';
import type { EchoFaults } from './icmp.js';

/** Options after `responder:`. */
export interface ResponderOptions {
  /** Longest IP packet in either direction, in bytes; sent to the guest by DHCP. */
  readonly mtu: number;
  readonly faults: EchoFaults;
}

const DEFAULT_MTU = 1500;
/** What every IPv4 host must accept (RFC 791); every DHCP reply fits in it. */
const LEAST_MTU = 576;
/** The usual jumbo frame. */
const MOST_MTU = 9000;
const MOST_REPLY = 0xffffffff;

/** Minimum and maximum of each option. */
const RANGES = {
  corrupt: [1, MOST_REPLY],
  drop: [1, MOST_REPLY],
  mtu: [LEAST_MTU, MOST_MTU],
} as const;

type Option = keyof typeof RANGES;

/**
 * Parses `option=number` items separated by commas: `corrupt=N` and `drop=N` (see EchoFaults), `mtu=BYTES`. The empty
 * text is valid and selects the defaults.
 * @returns the options, or all problems in one text
 */
export function parseResponderOptions(text: string): ResponderOptions | string {
  const values: Partial<Record<Option, number>> = {};
  const problems: string[] = [];
  for (const item of text === '' ? [] : text.split(',')) {
    const [, name = '', digits] = /^([^=]*)(?:=(.*))?$/s.exec(item) ?? [];
    if (!isOption(name)) {
      const names = Object.keys(RANGES);
      problems.push(
        `unknown option ${JSON.stringify(item)}${expected(name, names, `${names.join('=, ')}=`)}`,
      );
      continue;
    }
    const [least, most] = RANGES[name];
    const value = digits !== undefined && /^[0-9]{1,10}$/.test(digits) ? Number(digits) : Number.NaN;
    if (!(value >= least && value <= most)) {
      problems.push(`${JSON.stringify(item)}: ${name} takes a whole number from ${least} to ${most}`);
    } else if (values[name] !== undefined) {
      problems.push(`${name} is given twice`);
    } else {
      values[name] = value;
    }
  }
  if (problems.length > 0) return problems.join('; ');
  return {
    mtu: values.mtu ?? DEFAULT_MTU,
    faults: { corrupt: values.corrupt ?? 0, drop: values.drop ?? 0 },
  };
}

function isOption(name: string): name is Option {
  return Object.hasOwn(RANGES, name);
}
