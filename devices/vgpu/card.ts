/** A card that is divided: a pool of video memory and of engines, and who has what of it. */
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { MdevParentState } from '../../vfio/driver.js';
import { type Extent, PLACEMENT_POLICIES, type PlacementPolicy } from './placement.js';

/** A card of the driver `vgpu`. */
export interface VgpuCardOptions {
  /** Its name, by which option `card=` chooses it; of letters, digits, `-`, `_` and `.`, at most 32. */
  readonly name: string;
  /** Video memory in MiB: 64, 128 or 256, which is the default. */
  readonly memoryMib?: number;
  /** Engines, 1 to 1024; 32 if absent. They do nothing but be counted. */
  readonly engines?: number;
  /** Name of its placement policy: `mixed-size` if absent. */
  readonly placement?: string;
}

/** What an instance takes of a card. */
export interface Share {
  readonly memoryMib: number;
  readonly engines: number;
}

/** What an instance has of a card. */
interface Part extends Extent {
  readonly uuid: string;
  readonly type: string;
  /** Their numbers, ascending. */
  readonly engines: readonly number[];
}

const CARD_MIB: readonly number[] = [64, 128, 256];
const MOST_ENGINES = 1024;
/** Holders that an error names. */
const MOST_NAMED = 4;

/**
 * The pool is an account: each instance has memory of its own, of which a client of a served one gets the descriptor, and with it
 * no other instance's pixels.
 */
export class VgpuCard {
  readonly name: string;
  readonly memoryMib: number;
  readonly engines: number;
  readonly #policy: PlacementPolicy;
  /** By offset. */
  #parts: readonly Part[] = [];

  /**
   * @param policies that a plug-in or a program has besides {@link PLACEMENT_POLICIES}
   * @throws SysError EINVAL naming every option that is wrong
   */
  constructor(
    { name, memoryMib = 256, engines = 32, placement = 'mixed-size' }: VgpuCardOptions,
    policies: readonly PlacementPolicy[] = [],
  ) {
    const all = [...PLACEMENT_POLICIES, ...policies];
    const policy = all.find((each) => each.name === placement);
    const problems = [
      ...(/^[\w.-]{1,32}$/.test(name) ? [] : ['a name has 1 to 32 letters, digits, -, _ and .']),
      ...(CARD_MIB.includes(memoryMib) ? [] : [`memory: ${memoryMib} MiB is none of ${CARD_MIB.join(', ')}`]),
      ...(Number.isInteger(engines) && engines >= 1 && engines <= MOST_ENGINES
        ? []
        : [`engines: ${engines} is not a number from 1 to ${MOST_ENGINES}`]),
      ...(policy === undefined
        ? [`placement: '${placement}' is none of ${all.map((each) => each.name).join(', ')}`]
        : []),
    ];
    if (policy === undefined || problems.length > 0) {
      const hint = problems.join('; ');
      throw new SysError({ call: 'create card', target: `vgpu card '${name}'`, errno: errno.EINVAL, hint });
    }
    this.name = name;
    this.memoryMib = memoryMib;
    this.engines = engines;
    this.#policy = policy;
  }

  /** Whether one instance of a share fits. */
  hasRoom(share: Share): boolean {
    return typeof this.#room(share) !== 'string';
  }

  /** How many more instances of one share fit; of an empty card with `isEmpty`. */
  available({ memoryMib, engines }: Share, isEmpty = false): number {
    const taken: Extent[] = isEmpty ? [] : [...this.#parts];
    const most = Math.floor((isEmpty ? this.engines : this.#enginesLeft()) / engines);
    let count = 0;
    while (count < most) {
      const at = this.#place(memoryMib, taken);
      if (typeof at === 'string') break;
      insert(taken, { offset: at, size: memoryMib });
      count++;
    }
    return count;
  }

  /**
   * Takes a share for an instance; disposing the result gives it back.
   * @throws SysError ENOSPC with what is left and who has the rest; EPROTO for a policy's result that cannot be
   */
  take(type: string, uuid: string, share: Share): Disposable {
    const at = this.#room(share);
    if (typeof at === 'string') {
      const hint = this.shortage(type, share);
      throw new SysError({ call: 'mdev create', target: `${type} ${uuid}`, errno: errno.ENOSPC, hint });
    }
    const engines = this.#freeEngines().slice(0, share.engines);
    const part: Part = { offset: at, size: share.memoryMib, uuid, type, engines };
    this.#parts = insert([...this.#parts], part);
    return {
      [Symbol.dispose]: () => {
        this.#parts = this.#parts.filter((each) => each !== part);
      },
    };
  }

  /** Why there is no room, as a sentence without its end: what is left, and who has the rest. */
  shortage(type: string, share: Share): string {
    const why = this.#room(share);
    const wanted = `${type} takes ${share.memoryMib} MiB and ${enginesText(share.engines)}`;
    const left = `${this.#memoryLeft()} MiB of ${this.memoryMib} are left, and ${this.#enginesLeft()} engines of ${this.engines}`;
    const named = this.#parts
      .slice(0, MOST_NAMED)
      .map((part) => `${part.type} ${part.uuid} (${part.size} MiB)`);
    const others = this.#parts.length - named.length;
    const held = [...named, ...(others > 0 ? [`${others} more`] : [])].join(', ');
    const reason = typeof why === 'string' ? `: ${why}` : '';
    return `${wanted}; of ${this.name}, ${left}${reason}${held === '' ? '' : `; the rest is held by ${held}`}`;
  }

  /** The account. @param types names and shares, for the number of instances that are available */
  state(types: readonly { readonly name: string; readonly share: Share }[]): MdevParentState {
    return {
      name: this.name,
      description: `placement ${this.#policy.name}`,
      resources: [
        { name: 'video memory', unit: 'MiB', total: this.memoryMib, left: this.#memoryLeft() },
        { name: 'engines', unit: '', total: this.engines, left: this.#enginesLeft() },
      ],
      availableInstances: Object.fromEntries(types.map(({ name, share }) => [name, this.available(share)])),
      instances: this.#parts.map(({ uuid, type, offset, size, engines }) => ({
        uuid,
        type,
        uses: { 'video memory': `${size} MiB at ${offset} MiB`, engines: rangesText(engines) },
      })),
    };
  }

  has(uuid: string): boolean {
    return this.#parts.some((part) => part.uuid === uuid);
  }

  /** The offset for a share, or why there is no room. */
  #room({ memoryMib, engines }: Share): number | string {
    const left = this.#enginesLeft();
    if (engines > left) return `too few engines`;
    return this.#place(memoryMib, this.#parts);
  }

  #place(size: number, taken: readonly Extent[]): number | string {
    if (size > this.memoryMib) return `the card has ${this.memoryMib} MiB in all`;
    const at = this.#policy.place(size, { size: this.memoryMib, taken });
    if (typeof at === 'string') return at;
    const isInside = Number.isInteger(at) && at >= 0 && at + size <= this.memoryMib;
    const over = taken.find((each) => at < each.offset + each.size && each.offset < at + size);
    if (isInside && over === undefined) return at;
    throw new SysError({
      call: 'place',
      target: `${size} MiB on vgpu card ${this.name}`,
      errno: errno.EPROTO,
      hint: `its placement policy ${this.#policy.name} said ${String(at)}, which is ${isInside ? `an instance's, ${over?.offset} to ${(over?.offset ?? 0) + (over?.size ?? 0)}` : 'no offset in the card'}: this is the policy's error`,
    });
  }

  #memoryLeft(): number {
    return this.#parts.reduce((left, { size }) => left - size, this.memoryMib);
  }

  #enginesLeft(): number {
    return this.#parts.reduce((left, { engines }) => left - engines.length, this.engines);
  }

  #freeEngines(): number[] {
    const used = new Set(this.#parts.flatMap(({ engines }) => engines));
    return Array.from({ length: this.engines }, (_, i) => i).filter((i) => !used.has(i));
  }
}

function insert<T extends Extent>(into: T[], extent: T): T[] {
  into.push(extent);
  return into.sort((a, b) => a.offset - b.offset);
}

const enginesText = (count: number): string => `${count} ${count === 1 ? 'engine' : 'engines'}`;

/** `0-7, 9` */
function rangesText(numbers: readonly number[]): string {
  const ranges: { first: number; last: number }[] = [];
  for (const number of numbers) {
    const range = ranges.at(-1);
    if (range !== undefined && range.last === number - 1) range.last = number;
    else ranges.push({ first: number, last: number });
  }
  return ranges.map(({ first, last }) => (first === last ? `${first}` : `${first}-${last}`)).join(', ');
}
