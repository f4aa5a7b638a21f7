/**
 * Classic BPF as seccomp(2) runs it: a program over struct seccomp_data, written with labels. Jumps go forward only.
 * @see linux/filter.h, linux/bpf_common.h
 */

// Codes: class, mode or operation, source.
export const BPF_LD_W_ABS = 0x20;
export const BPF_JMP_JA = 0x05;
export const BPF_JMP_JEQ_K = 0x15;
export const BPF_JMP_JGE_K = 0x35;
export const BPF_JMP_JSET_K = 0x45;
export const BPF_ALU_AND_K = 0x54;
export const BPF_RET_K = 0x06;

/** Bytes of struct sock_filter. */
const SIZEOF_SOCK_FILTER = 8;
/** `BPF_MAXINSNS` */
const MOST_INSTRUCTIONS = 4096;
/** What the 8 bits of a conditional jump reach. */
const MOST_SHORT = 255;

type Test = 'jeq' | 'jge' | 'jset';
const CODE_OF: Readonly<Record<Test, number>> = {
  jeq: BPF_JMP_JEQ_K,
  jge: BPF_JMP_JGE_K,
  jset: BPF_JMP_JSET_K,
};

interface Plain {
  readonly kind: 'plain';
  readonly code: number;
  readonly k: number;
}

interface Jump {
  readonly kind: 'jump';
  readonly label: string;
}

interface Branch {
  readonly kind: 'branch';
  readonly code: number;
  readonly k: number;
  readonly label: string;
  /** Its target is out of a short jump's reach: it skips a long one. */
  isFar: boolean;
}

type Item = Plain | Jump | Branch | { readonly kind: 'label'; readonly label: string };

const lengthOf = (item: Item): number =>
  item.kind === 'label' ? 0 : item.kind === 'branch' && item.isFar ? 2 : 1;

/** A program in the making. */
export class BpfProgram {
  readonly #items: Item[] = [];

  /** Loads the 32-bit word at a byte offset of the data into the accumulator. */
  load(offset: number): this {
    return this.#plain(BPF_LD_W_ABS, offset);
  }

  /** Masks the accumulator. */
  and(mask: number): this {
    return this.#plain(BPF_ALU_AND_K, mask);
  }

  /** Ends the program with a value. */
  ret(value: number): this {
    return this.#plain(BPF_RET_K, value);
  }

  /** Goes to `label` if the accumulator equals `k` (jeq), is at least `k` (jge), or has a bit of `k` (jset); else on. */
  when(test: Test, k: number, label: string): this {
    this.#items.push({ kind: 'branch', code: CODE_OF[test], k: k >>> 0, label, isFar: false });
    return this;
  }

  goto(label: string): this {
    this.#items.push({ kind: 'jump', label });
    return this;
  }

  /** Names this place. */
  label(label: string): this {
    this.#items.push({ kind: 'label', label });
    return this;
  }

  /**
   * The program as an array of struct sock_filter.
   * @throws RangeError for a label that is missing, given twice or behind its jump, and for a program that is too long
   */
  encode(): Uint8Array<ArrayBuffer> {
    let places = this.#places();
    // A branch that becomes longer can put others out of reach.
    for (let hasGrown = true; hasGrown; places = this.#places()) {
      hasGrown = false;
      let at = 0;
      for (const item of this.#items) {
        const length = lengthOf(item); // of the places, which are those before this turn
        if (item.kind === 'branch' && !item.isFar && distance(places, item.label, at + 1) > MOST_SHORT) {
          item.isFar = true;
          hasGrown = true;
        }
        at += length;
      }
    }
    return this.#encodeAt(places);
  }

  #encodeAt(places: ReadonlyMap<string, number>): Uint8Array<ArrayBuffer> {
    const count = this.#items.reduce((sum, item) => sum + lengthOf(item), 0);
    if (count > MOST_INSTRUCTIONS)
      throw new RangeError(`${count} instructions, the kernel takes ${MOST_INSTRUCTIONS}`);
    const bytes = new Uint8Array(count * SIZEOF_SOCK_FILTER);
    const view = new DataView(bytes.buffer);
    let at = 0;
    const put = (code: number, k: number, whenTrue = 0, whenFalse = 0) => {
      const offset = at++ * SIZEOF_SOCK_FILTER;
      view.setUint16(offset, code, true);
      view.setUint8(offset + 2, whenTrue);
      view.setUint8(offset + 3, whenFalse);
      view.setUint32(offset + 4, k, true);
    };
    for (const item of this.#items) {
      if (item.kind === 'plain') put(item.code, item.k);
      else if (item.kind === 'jump') put(BPF_JMP_JA, distance(places, item.label, at + 1));
      else if (item.kind === 'branch' && !item.isFar)
        put(item.code, item.k, distance(places, item.label, at + 1));
      else if (item.kind === 'branch') {
        put(item.code, item.k, 0, 1);
        put(BPF_JMP_JA, distance(places, item.label, at + 1));
      }
    }
    return bytes;
  }

  #plain(code: number, k: number): this {
    this.#items.push({ kind: 'plain', code, k: k >>> 0 });
    return this;
  }

  #places(): ReadonlyMap<string, number> {
    const places = new Map<string, number>();
    let at = 0;
    for (const item of this.#items) {
      if (item.kind === 'label' && places.has(item.label))
        throw new RangeError(`the label ${item.label} is given twice`);
      if (item.kind === 'label') places.set(item.label, at);
      at += lengthOf(item);
    }
    return places;
  }
}

/** @param from place of the instruction after the jump */
function distance(places: ReadonlyMap<string, number>, label: string, from: number): number {
  const place = places.get(label);
  if (place === undefined) throw new RangeError(`there is no label ${label}`);
  if (place < from) throw new RangeError(`the label ${label} is behind its jump`);
  return place - from;
}
