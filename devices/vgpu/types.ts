/** The types of the driver `vgpu`: three of a fixed size, and four that are a share of their card. */
import type { MdevType, MdevTypeOption } from '../../vfio/driver.js';
import type { Share, VgpuCard } from './card.js';

/** A type, and what an instance of it takes of each card. */
export interface VgpuType extends MdevType {
  shareOf(card: VgpuCard): Share;
}

/** A screen's size, pixels. */
export interface Mode {
  readonly xres: number;
  readonly yres: number;
}

const BYTES_PER_PIXEL = 4;

const MODES: readonly Mode[] = [
  { xres: 3840, yres: 2160 },
  { xres: 2560, yres: 1440 },
  { xres: 1920, yres: 1080 },
  { xres: 1024, yres: 768 },
];

/** Bytes of one picture. */
export const pictureBytes = ({ xres, yres }: Mode): number => xres * yres * BYTES_PER_PIXEL;

/** The largest mode of which two pictures fit: drivers draw the next frame beside the one that is displayed. */
export function preferredMode(memoryMib: number): Mode {
  const mode = MODES.find((each) => 2 * pictureBytes(each) <= memoryMib << 20);
  if (mode === undefined) throw new RangeError(`${memoryMib} MiB`);
  return mode;
}

const FIXED_SIZES = [
  ['small', 8],
  ['medium', 16],
  ['large', 64],
] as const;

const FRACTIONS = [
  ['whole', 1],
  ['half', 2],
  ['quarter', 4],
  ['eighth', 8],
] as const;

/** Types of a driver with these cards. */
export function vgpuTypes(cards: readonly VgpuCard[]): readonly VgpuType[] {
  return [
    ...FIXED_SIZES.map(([name, memoryMib]) =>
      vgpuType(name, 'display card', cards, () => ({ memoryMib, engines: 1 })),
    ),
    ...FRACTIONS.map(([name, parts]) =>
      vgpuType(name, `${name} of a display card,`, cards, (card) => ({
        memoryMib: card.memoryMib / parts,
        engines: Math.max(1, Math.floor(card.engines / parts)),
      })),
    ),
  ];
}

function vgpuType(
  name: string,
  what: string,
  cards: readonly VgpuCard[],
  shareOf: VgpuType['shareOf'],
): VgpuType {
  const sizes = [...new Set(cards.map((card) => shareOf(card).memoryMib))];
  const [size] = sizes;
  const mode = size !== undefined && sizes.length === 1 ? preferredMode(size) : undefined;
  const shown = mode === undefined ? 'bochs-display' : `bochs-display, ${mode.xres}x${mode.yres}`;
  const least = (side: keyof Mode): string =>
    mode === undefined ? 'that of the largest mode with room for two pictures' : String(mode[side]);
  const options: MdevTypeOption[] = [
    {
      name: 'xres',
      value: 'PIXELS',
      description: `width of the preferred mode, by default ${least('xres')}`,
    },
    {
      name: 'yres',
      value: 'PIXELS',
      description: `height of the preferred mode, by default ${least('yres')}`,
    },
    {
      name: 'card',
      value: 'NAME',
      description: 'the card that it is a part of, by default the first with room',
    },
  ];
  return {
    name: `vgpu-${name}`,
    description: `${what} with ${sizes.join(' or ')} MiB, ${shown} (xres=, yres=)`,
    deviceApi: 'vfio-pci',
    maxInstances: cards.reduce((sum, card) => sum + card.available(shareOf(card), true), 0),
    options,
    shareOf,
  };
}
