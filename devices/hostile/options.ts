import { randomInt } from 'node:crypto';
import { didYouMean } from '../../sys/suggestion.js';
import { regionNumber } from './labels.js';

/** All of {@link MutationKind}. */
export const MUTATION_KINDS = ['value', 'write', 'interrupt', 'dma', 'error', 'delay'] as const;
/** What a hostile device can do. */
export type MutationKind = (typeof MUTATION_KINDS)[number];

/** Part of a region: all of it, or the bytes from `first` to `last`. */
export interface HostileRegion {
  /** VFIO's number: 0 to 5 for BARs, VFIO_PCI_CONFIG_REGION_INDEX for configuration space. */
  readonly region: number;
  /** Offset of the first byte; 0 if absent. */
  readonly first?: number;
  /** Offset of the last byte; the region's end if absent. */
  readonly last?: number;
}

/** How hostile a device is. */
export interface HostileOptions {
  /** Everything that it does follows from this number, 0 to 2^32 - 1, and from what its guest does. */
  readonly seed: number;
  /** Which share of the occasions it uses, above 0 and up to 1; 0.01 if absent. */
  readonly rate?: number;
  /** What it does; all of {@link MUTATION_KINDS} if absent. */
  readonly kinds?: readonly MutationKind[];
  /** Where it changes values and writes, delays, and fails accesses; in every region if absent. */
  readonly regions?: readonly HostileRegion[];
  /** The numbers of the mutations that it makes, from 1; it counts the others, and makes none of them. All if absent. */
  readonly window?: { readonly first: number; readonly last: number };
  /** The only mutations that it makes, by their labels, as in {@link Mutation.label}; all if absent. */
  readonly only?: readonly string[];
  /**
   * Whether it begins when it is opened, so that the VMM's own accesses meet it, too, which may refuse the device. Otherwise it
   * begins when the guest first lets it decode or be a bus master.
   */
  readonly isEarly?: boolean;
}

/** What {@link parseHostile} takes, for messages. */
export const HOSTILE_SYNTAX =
  'SEED[:rate=R][:kinds=KIND+...][:regions=REGION[@FIRST-LAST]+...][:window=FIRST-LAST][:only=LABEL+...][:early]';

const DEFAULT_RATE = 0.01;
const MOST_SEED = 2 ** 32 - 1;

/** The options with every default filled in. Plain data: it passes to the event thread. */
export interface FullHostileOptions {
  readonly seed: number;
  readonly rate: number;
  readonly kinds: readonly MutationKind[];
  readonly regions: readonly HostileRegion[] | undefined;
  readonly first: number;
  readonly last: number;
  readonly only: readonly string[] | undefined;
  readonly isEarly: boolean;
}

/** @throws RangeError for a seed, a rate or a kind that there is not */
export function fillOptions(given: HostileOptions): FullHostileOptions {
  const { seed, rate = DEFAULT_RATE, kinds = MUTATION_KINDS, regions, window, only, isEarly = false } = given;
  if (!Number.isInteger(seed) || seed < 0 || seed > MOST_SEED)
    throw new RangeError(`hostile device: the seed ${seed} is no integer from 0 to ${MOST_SEED}`);
  if (!(rate > 0 && rate <= 1)) throw new RangeError(`hostile device: the rate ${rate} is not in (0, 1]`);
  const unknown = kinds.find((kind) => !MUTATION_KINDS.includes(kind));
  if (unknown !== undefined)
    throw new RangeError(`hostile device: ${unknown} is none of ${MUTATION_KINDS.join(', ')}`);
  const { first, last } = window ?? { first: 1, last: Number.POSITIVE_INFINITY };
  return { seed, rate, kinds, regions, first, last, only, isEarly };
}

/** Parses what follows `hostile=` on a command line. @returns the options, or the problem */
export function parseHostile(text: string): HostileOptions | string {
  const [seedText = '', ...parts] = text.split(':');
  const seed =
    seedText === 'random' ? randomInt(MOST_SEED) : /^\d{1,10}$/.test(seedText) ? Number(seedText) : -1;
  if (seed < 0 || seed > MOST_SEED)
    return `${JSON.stringify(seedText)} is no seed: a number up to ${MOST_SEED}, or random`;
  let options: HostileOptions = { seed };
  for (const part of parts) {
    const at = part.indexOf('=');
    const [name, value] = at < 0 ? [part, undefined] : [part.slice(0, at), part.slice(at + 1)];
    const next = parsePart(name, value);
    if (typeof next === 'string') return next;
    options = { ...options, ...next };
  }
  return options;
}

const NAMES = ['rate', 'kinds', 'regions', 'window', 'only', 'early'];

function parsePart(name: string, value: string | undefined): Partial<HostileOptions> | string {
  if (name === 'early' && value === undefined) return { isEarly: true };
  const list = value?.split('+') ?? [];
  switch (value === undefined ? '' : name) {
    case 'rate': {
      const rate = Number(value);
      return rate > 0 && rate <= 1 ? { rate } : `rate=${value} is not above 0 and up to 1`;
    }
    case 'kinds': {
      const unknown = list.find((kind) => !(MUTATION_KINDS as readonly string[]).includes(kind));
      if (unknown === undefined) return { kinds: list as MutationKind[] };
      return `${JSON.stringify(unknown)} is none of ${MUTATION_KINDS.join(', ')}${didYouMean(unknown, MUTATION_KINDS)}`;
    }
    case 'regions': {
      const regions = list.map(parseRegion);
      return regions.find((region) => typeof region === 'string') ?? { regions: regions as HostileRegion[] };
    }
    case 'window': {
      const [, first, last] = /^(\d{1,9})-(\d{1,9})$/.exec(value ?? '') ?? [];
      if (first === undefined || Number(first) < 1 || Number(first) > Number(last))
        return `window=${value} is not FIRST-LAST, from 1 on`;
      return { window: { first: Number(first), last: Number(last) } };
    }
    case 'only':
      return { only: list };
    default:
      return `${JSON.stringify(name)} is not one of ${NAMES.join(', ')}${didYouMean(name, NAMES)}`;
  }
}

function parseRegion(text: string): HostileRegion | string {
  const [name = '', range] = text.split('@');
  const region = regionNumber(name);
  if (region === undefined)
    return `${JSON.stringify(name)} is no region: bar0 to bar5, rom, config, or a number`;
  if (range === undefined) return { region };
  const [, first, last] = /^(0x[\da-f]{1,10}|\d{1,12})-(0x[\da-f]{1,10}|\d{1,12})$/i.exec(range) ?? [];
  if (first === undefined || Number(first) > Number(last))
    return `${JSON.stringify(range)} is no range of offsets: 0x10-0x1f`;
  return { region, first: Number(first), last: Number(last) };
}
