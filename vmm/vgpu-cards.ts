/** The cards that vGPUs are parts of, as a configuration and the command line have them. */
import * as z from 'zod/mini'; // a start loads it
import type { VgpuCardOptions } from '../devices/vgpu/card.js';
import { usageError } from './command-line.js';
import { parseAddress } from './device-address.js';

/** As devices/vgpu/card.ts has it, which only the machine's thread loads. */
const MEMORY = { '64M': 64, '128M': 128, '256M': 256 } as const;
const MOST_CARDS = 16;

/** One entry of `vgpuCards`. */
export const vgpuCardSchema = z.strictObject({
  /** By which option `card` of a vGPU chooses it. */
  name: z.string().check(z.regex(/^[\w.-]{1,32}$/, 'the name has 1 to 32 letters, digits, -, _ and .')),
  /** Video memory. */
  memory: z._default(z.enum(['64M', '128M', '256M']), '256M'),
  /** How many engines its parts share. */
  engines: z._default(z.int().check(z.minimum(1), z.maximum(1024)), 32),
  /** `mixed-size`, `same-size`, `first-fit`, or a plug-in's. */
  placement: z._default(z.string().check(z.minLength(1)), 'mixed-size'),
});

export const vgpuCardsSchema = z._default(z.array(vgpuCardSchema).check(z.maxLength(MOST_CARDS)), []).check(
  z.superRefine((cards, context) => {
    for (const [i, { name }] of cards.entries()) {
      const first = cards.findIndex((card) => card.name === name);
      if (first === i) continue;
      context.addIssue({ code: 'custom', path: [i, 'name'], message: `${name} is vgpuCards[${first}]'s` });
    }
  }),
);

/** A card that vGPUs are parts of, as the user writes it. */
export interface VgpuCardInput {
  /** By which option `card` of a vGPU chooses it: 1 to 32 letters, digits, `-`, `_` and `.`. */
  readonly name: string;
  /** Video memory; 256M if absent. */
  readonly memory?: '64M' | '128M' | '256M' | undefined;
  /** How many engines its parts share, 1 to 1024; 32 if absent. */
  readonly engines?: number | undefined;
  /** Which parts can be beside each other: `mixed-size` (the default), `same-size`, `first-fit`, or a plug-in's. */
  readonly placement?: string | undefined;
}

/** A card with defaults filled in. */
export type VgpuCardConfig = z.output<typeof vgpuCardSchema>;

/** As the driver takes them. */
export const cardOptions = (cards: readonly VgpuCardConfig[]): readonly VgpuCardOptions[] =>
  cards.map(({ memory, ...card }) => ({ ...card, memoryMib: MEMORY[memory] }));

/**
 * A card as the command line takes it: `a,memory=128M,engines=8,placement=same-size`.
 * @returns the data of a configuration
 * @throws ConfigError
 */
export function parseVgpuCard(text: string): unknown {
  const where = `--vgpu-card ${text}`;
  const { address: name, options } = parseAddress(text, where);
  const { memory, engines, placement, ...others } = options;
  const [unknown] = Object.keys(others);
  if (unknown !== undefined)
    throw usageError(where, `there is no option ${unknown}; there are memory=, engines=, placement=`);
  if (engines !== undefined && !/^\d{1,4}$/.test(engines))
    throw usageError(where, `engines=${engines} is not a number from 1 to 1024`);
  return {
    name,
    ...(memory === undefined ? {} : { memory: memory.toUpperCase() }),
    ...(engines === undefined ? {} : { engines: Number(engines) }),
    ...(placement === undefined ? {} : { placement }),
  };
}
