/** Faults of hardware that a test can give to the card. */

/** A fault of the card: docs/test-card.md. */
export type FaultName =
  | 'reset-fails'
  | 'reset-hangs'
  | 'dead-after-reset'
  | 'stuck-in-d3'
  | 'lose-interrupts'
  | 'spurious-interrupt'
  | 'ignore-mask'
  | 'dma-astray'
  | 'slow'
  | 'removed'
  | 'request'
  | 'bad-capabilities'
  | 'lying-bar';

/** Numbers in REG_FAULT; 0 takes all faults away. */
export const FAULTS: Readonly<Record<FaultName, number>> = {
  /** The next resets fail with EIO and change nothing. */
  'reset-fails': 1,
  /** Each reset takes `argument` milliseconds. */
  'reset-hangs': 2,
  /** After its next reset, the card answers nothing any more. */
  'dead-after-reset': 3,
  /** The card does not leave D3hot. */
  'stuck-in-d3': 4,
  /** The next `argument` interrupts are lost. */
  'lose-interrupts': 5,
  /** Interrupts at once by message `argument`, without a cause. */
  'spurious-interrupt': 6,
  /** Messages leave though they are masked. */
  'ignore-mask': 7,
  /** Each transfer goes to addresses that are {@link ASTRAY} away. */
  'dma-astray': 8,
  /** Each access to a register takes `argument` microseconds. */
  slow: 9,
  /** The card has been pulled out: it answers nothing, and does nothing. */
  removed: 10,
  /** Asks the user for the device, by REQ, once. */
  request: 11,
  /** The list of capabilities is a circle. From the next open on. */
  'bad-capabilities': 12,
  /** The sizing protocol says that BAR 4 is 16 times as large as it is. From the next open on. */
  'lying-bar': 13,
};

/** All of {@link FaultName}. */
export const FAULT_NAMES = Object.keys(FAULTS) as FaultName[];
/** Of a fault's argument: it has 24 bits in the register. */
export const MOST_ARGUMENT = 2 ** 24 - 1;
/** Bytes. No guest has memory there. */
export const ASTRAY = 2 ** 46;

/** A fault with its argument; 0 if it has none. */
export interface Fault {
  readonly name: FaultName;
  readonly argument: number;
}

const DEFAULTS: Partial<Record<FaultName, number>> = { 'reset-hangs': 1000, 'lose-interrupts': 1, slow: 100 };
/** Longest that a guest can make the card take. */
const MOST: Partial<Record<FaultName, number>> = { 'reset-hangs': 60_000, slow: 10_000 };

/** A fault as it takes effect: absent arguments have their default, long times are cut to 60 s and 10 ms. */
export function faultOf(name: FaultName, argument?: number): Fault {
  const value = argument ?? DEFAULTS[name] ?? 0;
  return { name, argument: Math.min(value, MOST[name] ?? MOST_ARGUMENT) };
}

const isFaultName = (name: string): name is FaultName => Object.hasOwn(FAULTS, name);

/** Parses `NAME[:ARGUMENT][+NAME...]`. @returns the faults, or the problem */
export function parseFaults(text: string): readonly Fault[] | string {
  const faults: Fault[] = [];
  for (const part of text.split('+')) {
    const [name = '', argument, ...rest] = part.split(':');
    if (!isFaultName(name)) return `${JSON.stringify(name)} is none of ${FAULT_NAMES.join(', ')}`;
    const isNumber = argument === undefined || /^\d{1,8}$/.test(argument);
    if (rest.length > 0 || !isNumber || Number(argument ?? 0) > MOST_ARGUMENT)
      return `${JSON.stringify(part)}: a fault's argument is a number up to ${MOST_ARGUMENT}`;
    faults.push(faultOf(name, argument === undefined ? undefined : Number(argument)));
  }
  return faults;
}

/** What the guest writes to REG_FAULT. @returns undefined for a number that no fault has; `none` for 0 */
export function decodeFault(value: number): Fault | 'none' | undefined {
  const number = value & 0xff;
  if (number === 0) return 'none';
  const name = FAULT_NAMES.find((each) => FAULTS[each] === number);
  const argument = value >>> 8;
  return name && faultOf(name, argument === 0 ? undefined : argument);
}
