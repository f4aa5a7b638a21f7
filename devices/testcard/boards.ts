import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { disposable } from '../../sys/scope.js';
import type { PciSlotFunction, PciSlotReset } from '../../vfio/driver.js';

/** A card as its board resets it. */
export interface BoardCard {
  /** Why a reset fails; undefined if it does not. */
  readonly resetProblem: string | undefined;
  /** As VFIO_DEVICE_RESET, of a card that has none by itself, too. */
  resetWithBoard(): void;
}

/** Cards that are functions of one slot: what resets one resets all. */
export class Board implements PciSlotReset {
  readonly #name: string;
  readonly #cards = new Map<string, BoardCard>();

  constructor(name: string) {
    this.#name = name;
  }

  get functions(): readonly PciSlotFunction[] {
    return [...this.#cards.keys()].map((name) => ({ name }));
  }

  /** @throws SysError EIO if one of the cards fails to reset; none is reset then */
  reset(): void {
    for (const [name, { resetProblem }] of this.#cards) {
      if (resetProblem === undefined) continue;
      const target = `board ${this.#name}`;
      throw new SysError({ call: 'hot reset', target, errno: errno.EIO, hint: `${name}: ${resetProblem}` });
    }
    for (const card of this.#cards.values()) card.resetWithBoard();
  }

  /** @param name of the card's device. Returns what takes it away */
  add(name: string, card: BoardCard): Disposable {
    this.#cards.set(name, card);
    return disposable(() => this.#cards.delete(name));
  }
}

/** The boards of one driver by name; a board exists as long as it has cards. */
export class Boards {
  readonly #boards = new Map<string, Board>();

  find(name: string): Board {
    const board = this.#boards.get(name) ?? new Board(name);
    this.#boards.set(name, board);
    return board;
  }

  /** Forgets boards without cards. */
  tidy(): void {
    for (const [name, { functions }] of this.#boards) if (functions.length === 0) this.#boards.delete(name);
  }
}
