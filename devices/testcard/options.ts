import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { didYouMean } from '../../sys/suggestion.js';
import { unknownOption } from '../../vfio/option-problem.js';
import { FAILING_CALLS, type FailingCall, type Failure } from './failing-ops.js';
import { type Fault, parseFaults } from './faults.js';
import { MOST_VFS } from './spec.js';

export const RESETS = ['flr', 'pm', 'af', 'none'] as const;
/** How the card can be reset: by its Express capability, by leaving D3hot, by its Advanced Features, or not at all. */
export type ResetKind = (typeof RESETS)[number];

export const MIGRATIONS = ['off', 'stop-copy', 'p2p', 'pre-copy', 'all'] as const;
/** How the card migrates: not at all, by STOP_COPY alone, and with P2P states, PRE_COPY, or both. */
export type MigrationKind = (typeof MIGRATIONS)[number];

/** What a card has. */
export interface TestCardOptions {
  readonly hasIntx: boolean;
  /** Messages of its MSI capability: 0 or a power of two up to 32. */
  readonly msi: number;
  /** Vectors of its MSI-X table: 0 to 2048. */
  readonly msix: number;
  readonly reset: ResetKind;
  /** The slot that it shares with other cards; undefined if it has its own. */
  readonly board: string | undefined;
  /** Whether it is a PCI Express endpoint, with 4096 bytes of configuration space. */
  readonly isExpress: boolean;
  /** Bytes of BAR 2. */
  readonly ramBytes: number;
  /** Bytes of the expansion ROM's image; 0 for none. */
  readonly romBytes: number;
  readonly migration: MigrationKind;
  /** Virtual functions that a guest can enable: 0 to 7. */
  readonly vfs: number;
  /** Whether it is a virtual function itself: without ports, pin, MSI and ROM. */
  readonly isVf: boolean;
  readonly faults: readonly Fault[];
  readonly failures: readonly Failure[];
}

export const NAMES = [
  ...[
    'intx',
    'msi',
    'vectors',
    'reset',
    'board',
    'express',
    'ram',
    'rom',
    'migration',
    'vfs',
    'fault',
    'fail',
  ],
];
const UNITS: Readonly<Record<string, number>> = { '': 1, K: 1 << 10, M: 1 << 20, G: 1 << 30 };
const [LEAST_RAM, MOST_RAM] = [4096, 1 << 30];
const MOST_ROM = 1 << 20;
const MSI_COUNTS = [0, 1, 2, 4, 8, 16, 32];
const MOST_VECTORS = 2048;

/** @throws SysError EINVAL with a hint that lists all problems */
export function parseOptions(options: Readonly<Record<string, string>>, target: string): TestCardOptions {
  const problems = Object.keys(options)
    .filter((name) => !NAMES.includes(name))
    .map((name) => unknownOption(name, NAMES));
  const problem = (name: string, text: string): undefined => void problems.push(`${name}: ${text}`);
  const quoted = (text: string) => JSON.stringify(text);
  const isOn = (name: string): boolean => {
    const text = options[name] ?? 'on';
    if (text !== 'on' && text !== 'off') problem(name, `${quoted(text)} is neither on nor off`);
    return text === 'on';
  };
  const number = (
    name: string,
    byDefault: number,
    isValid: (value: number) => boolean,
    what: string,
  ): number => {
    const text = options[name] ?? `${byDefault}`;
    const value = /^\d{1,5}$/.test(text) ? Number(text) : -1;
    if (!isValid(value)) problem(name, `${quoted(text)} is not ${what}`);
    return value;
  };
  const size = (
    name: string,
    byDefault: string,
    isValid: (bytes: number) => boolean,
    what: string,
  ): number => {
    const text = options[name] ?? byDefault;
    const [, digits, unit = ''] = /^(\d{1,10})([KMG]?)$/.exec(text) ?? [];
    const bytes = digits === undefined ? -1 : Number(digits) * (UNITS[unit] as number);
    if (!isValid(bytes)) problem(name, `${quoted(text)} is not ${what}`);
    return bytes;
  };
  const isPowerOfTwo = (value: number) => value > 0 && Number.isInteger(Math.log2(value));

  const reset = options.reset ?? 'flr';
  if (!(RESETS as readonly string[]).includes(reset))
    problem('reset', `${quoted(reset)} is none of ${RESETS.join(', ')}${didYouMean(reset, RESETS)}`);
  const migration = options.migration ?? 'stop-copy';
  if (!(MIGRATIONS as readonly string[]).includes(migration))
    problem(
      'migration',
      `${quoted(migration)} is none of ${MIGRATIONS.join(', ')}${didYouMean(migration, MIGRATIONS)}`,
    );
  const isExpress = isOn('express');
  if (!isExpress && reset === 'flr' && options.reset !== undefined)
    problem('reset', 'flr is a reset of PCI Express: give express=on, or another reset');
  const { board } = options;
  if (board !== undefined && !/^[\w.-]{1,32}$/.test(board))
    problem('board', `${quoted(board)} is not a name of up to 32 letters, digits, dots and dashes`);
  const faults = options.fault === undefined ? [] : parseFaults(options.fault);
  if (typeof faults === 'string') problem('fault', faults);
  const failures = options.fail === undefined ? [] : parseFailures(options.fail);
  if (typeof failures === 'string') problem('fail', failures);
  const parsed = {
    hasIntx: isOn('intx'),
    msi: number('msi', 4, (value) => MSI_COUNTS.includes(value), `one of ${MSI_COUNTS.join(', ')}`),
    msix: number(
      'vectors',
      8,
      (value) => value >= 0 && value <= MOST_VECTORS,
      `a number up to ${MOST_VECTORS}`,
    ),
    reset: (!isExpress && options.reset === undefined ? 'pm' : reset) as ResetKind,
    migration: migration as MigrationKind,
    isExpress,
    board,
    ramBytes: size(
      'ram',
      '1M',
      (bytes) => isPowerOfTwo(bytes) && bytes >= LEAST_RAM && bytes <= MOST_RAM,
      'a power of two from 4K to 1G',
    ),
    romBytes: size(
      'rom',
      '4K',
      (bytes) => bytes >= 0 && bytes <= MOST_ROM && bytes % 512 === 0,
      '0, or a multiple of 512 up to 1M',
    ),
    vfs: number('vfs', 0, (value) => value >= 0 && value <= MOST_VFS, `a number up to ${MOST_VFS}`),
    isVf: false,
  };
  if (!isExpress && parsed.vfs > 0) problem('vfs', 'SR-IOV is of PCI Express: give express=on');
  if (problems.length > 0)
    throw new SysError({ call: 'mdev create', target, errno: errno.EINVAL, hint: problems.join('; ') });
  return { ...parsed, faults: faults as readonly Fault[], failures: failures as readonly Failure[] };
}

/** What a virtual function of a card has: memory of the same size, as many vectors, a reset of its own, and no faults. */
export const vfOptions = ({ msix, ramBytes, migration }: TestCardOptions): TestCardOptions => ({
  ...{ hasIntx: false, msi: 0, msix, reset: 'flr', board: undefined, isExpress: true },
  ...{ migration, ramBytes, romBytes: 0, vfs: 0, isVf: true, faults: [], failures: [] },
});

/** Parses `CALL:ERRNO[:NTH][+CALL...]`. @returns the failures, or the problem */
function parseFailures(text: string): readonly Failure[] | string {
  const failures: Failure[] = [];
  for (const part of text.split('+')) {
    const [call = '', name = '', nth = '0', ...rest] = part.split(':');
    if (!(FAILING_CALLS as readonly string[]).includes(call))
      return `${JSON.stringify(call)} is none of ${FAILING_CALLS.join(', ')}${didYouMean(call, FAILING_CALLS)}`;
    const number = (errno as Record<string, number>)[name];
    if (number === undefined) return `${JSON.stringify(name)} is no errno: EIO, for example`;
    if (rest.length > 0 || !/^\d{1,6}$/.test(nth))
      return `${JSON.stringify(part)}: the call that fails is a number from 1, or 0 for each`;
    failures.push({ call: call as FailingCall, errno: number, nth: Number(nth) });
  }
  return failures;
}
