import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { MdevInstance, MdevType, VendorDriver } from '../../vfio/driver.js';
import { optionProblem, unknownOption } from '../../vfio/option-problem.js';
import { VgpuCard, type VgpuCardOptions } from './card.js';
import { VgpuDevice } from './device.js';
import type { PlacementPolicy } from './placement.js';
import { type Mode, pictureBytes, preferredMode, type VgpuType, vgpuTypes } from './types.js';

/** An instance of a display card. */
export interface VgpuInstance extends MdevInstance {
  /** The device's functions, and its display. */
  readonly ops: VgpuDevice;
}

/** What the driver `vgpu` divides, and how. */
export interface VgpuDriverOptions {
  /** The cards, 1 to 16, tried in this order; one of 256 MiB named `card0` if absent. */
  readonly cards?: readonly VgpuCardOptions[];
  /** Placement policies that cards can name, besides `mixed-size`, `same-size` and `first-fit`. */
  readonly placements?: readonly PlacementPolicy[];
}

/** The card that there is where none is configured. */
const DEFAULT_CARDS: readonly VgpuCardOptions[] = [{ name: 'card0' }];
/** Most cards of one driver. */
export const MOST_VGPU_CARDS = 16;
const LEAST_PIXELS = 64;
const MOST_PIXELS = 4095;

interface Given {
  /** The card that is asked for. */
  readonly card: VgpuCard | undefined;
  readonly xres: number | undefined;
  readonly yres: number | undefined;
}

/**
 * The vendor driver `vgpu`: display cards that stock Linux drives with bochs-drm. An instance is a part of a card, whose video
 * memory and engines its instances share: of 8, 16 or 64 MiB (`vgpu-small`, `-medium`, `-large`, with one engine), or a share
 * of both (`vgpu-whole`, `-half`, `-quarter`, `-eighth`). The card's placement policy decides which of them can exist beside
 * each other. Options `xres=` and `yres=` set the screen's preferred mode, `card=` chooses the card. `create` throws SysError
 * EINVAL for an invalid option, ENOSPC if no card has room, which names who has it.
 * @throws SysError EINVAL for cards that cannot be, naming what is wrong
 */
export function createVgpuDriver({
  cards: given = DEFAULT_CARDS,
  placements = [],
}: VgpuDriverOptions = {}): VendorDriver & {
  /** As {@link VendorDriver.create}. */
  create(...parameters: Parameters<VendorDriver['create']>): VgpuInstance;
} {
  const cards = given.map((each) => new VgpuCard(each, placements));
  requireDistinct(cards);
  const types = vgpuTypes(cards);
  const typeOf = (of: MdevType): VgpuType => of as VgpuType;
  const shares = (card: VgpuCard) => types.map(({ name, shareOf }) => ({ name, share: shareOf(card) }));
  const check = (of: VgpuType, options: Readonly<Record<string, string>>, target: string) => {
    const parsed = parseOptions(cards, options, target);
    // Without a card to be on, one that could hold the picture is enough.
    const all = parsed.card === undefined ? cards : [parsed.card];
    const least = all.map((card) => modeProblem(of, of.shareOf(card).memoryMib, parsed));
    if (least.every((problem) => problem !== undefined)) throw invalid(target, least[0] as string);
    return { ...parsed, cards: all.filter((_, i) => least[i] === undefined) };
  };
  return {
    name: 'vgpu',
    types,
    availableInstances: (of) =>
      cards.reduce((sum, card) => sum + card.available(typeOf(of).shareOf(card)), 0),
    shortage: (of, { card: name }) => {
      const asked = cards.filter((card) => card.name === name);
      const all = asked.length === 0 ? cards : asked;
      return all.map((card) => card.shortage(of.name, typeOf(of).shareOf(card))).join('; ');
    },
    parents: () => cards.map((card) => card.state(shares(card))),
    checkOptions: (of, options) => optionProblem(() => check(typeOf(of), options, of.name)),
    create(of, uuid, options) {
      const type = typeOf(of);
      const target = `${of.name} ${uuid}`;
      const { cards: able, xres, yres } = check(type, options, target);
      const card = able.find((each) => each.hasRoom(type.shareOf(each)));
      if (card === undefined) {
        const hint = able.map((each) => each.shortage(of.name, type.shareOf(each))).join('; ');
        throw new SysError({ call: 'mdev create', target, errno: errno.ENOSPC, hint });
      }
      const share = type.shareOf(card);
      const mode = { ...preferredMode(share.memoryMib), ...(xres && { xres }), ...(yres && { yres }) };
      const ops = new VgpuDevice({ name: target, vramBytes: share.memoryMib << 20, ...mode });
      let part: Disposable;
      try {
        part = card.take(of.name, uuid, share);
      } catch (error) {
        ops[Symbol.dispose]();
        throw error;
      }
      let isThere = true;
      return {
        ops,
        parent: () => card.state(shares(card)),
        [Symbol.dispose]() {
          if (!isThere) return;
          isThere = false;
          part[Symbol.dispose]();
          ops[Symbol.dispose]();
        },
      };
    },
  };
}

function requireDistinct(cards: readonly VgpuCard[]): void {
  const names = cards.map(({ name }) => name);
  const twice = names.find((name, i) => names.indexOf(name) < i);
  const hint =
    twice === undefined
      ? `there are ${cards.length} cards: 1 to ${MOST_VGPU_CARDS} can be`
      : `there are two cards named ${twice}`;
  if (twice === undefined && cards.length >= 1 && cards.length <= MOST_VGPU_CARDS) return;
  throw new SysError({ call: 'create card', target: 'vgpu cards', errno: errno.EINVAL, hint });
}

const invalid = (target: string, hint: string): SysError =>
  new SysError({ call: 'mdev create', target, errno: errno.EINVAL, hint });

function parseOptions(
  cards: readonly VgpuCard[],
  options: Readonly<Record<string, string>>,
  target: string,
): Given {
  const { xres, yres, card: name, ...others } = options;
  const problems = Object.keys(others).map((each) => unknownOption(each, ['card', 'xres', 'yres']));
  const pixels = (side: string, text: string | undefined): number | undefined => {
    if (text === undefined) return undefined;
    const value = /^\d{1,5}$/.test(text) ? Number(text) : 0;
    if (value < LEAST_PIXELS || value > MOST_PIXELS)
      problems.push(`${side}: '${text}' is not a number of pixels from ${LEAST_PIXELS} to ${MOST_PIXELS}`);
    return value;
  };
  const mode = { xres: pixels('xres', xres), yres: pixels('yres', yres) };
  const card = cards.find((each) => each.name === name);
  if (name !== undefined && card === undefined)
    problems.push(
      `card: there is no card '${name}'; there are: ${cards.map((each) => each.name).join(', ')}`,
    );
  if (problems.length > 0) throw invalid(target, problems.join('; '));
  return { card, ...mode };
}

function modeProblem({ name }: VgpuType, memoryMib: number, given: Given): string | undefined {
  const preferred = preferredMode(memoryMib);
  const mode: Mode = { xres: given.xres ?? preferred.xres, yres: given.yres ?? preferred.yres };
  if (pictureBytes(mode) <= memoryMib << 20) return undefined;
  return `${mode.xres}x${mode.yres} needs more than the ${memoryMib} MiB of ${name}`;
}
