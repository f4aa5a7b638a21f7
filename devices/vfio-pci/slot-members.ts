import { isErrno } from '../../sys/error.js';
import { disposable } from '../../sys/scope.js';
import type { AffectedFunction, SlotReset } from '../../vfio/assign/index.js';
import { attempt, errorText, note } from './notes.js';

/** A device that is reset together with the others of its slot. */
export interface SlotMember {
  /** Its name in notes. */
  readonly name: string;
  /** Whether the guest does not use it: no decoding, no bus mastering. */
  readonly isIdle: boolean;
  /** Stops its interrupts and DMA, ahead of a reset that another device asks for. */
  beforeReset(): void;
  /** Restores its interrupts. @param isReset whether the reset has happened */
  afterReset(isReset: boolean): void;
}

/** The assigned devices of one machine, by their addresses on the host. */
export class SlotMembers {
  readonly #members = new Map<string, SlotMember>();

  /** Disposing the result removes the device. */
  add(address: string, member: SlotMember): Disposable {
    this.#members.set(address, member);
    return disposable(() => this.#members.delete(address));
  }

  /**
   * Resets the slot of `own`, which is quiesced, with every function on it, unless one of them is not this machine's or
   * the guest uses it. Returns the functions, or why they cannot be reset.
   * @see vfio_pci_hot_reset of QEMU
   */
  reset(own: SlotMember, slot: SlotReset): { readonly done: string } | { readonly refused: string } {
    let affected: readonly AffectedFunction[];
    try {
      affected = slot.affected();
    } catch (error) {
      const isNone = isErrno(error, 'ENODEV') || isErrno(error, 'ENOTTY');
      return { refused: isNone ? 'neither its slot nor its bus can be reset' : errorText(error) };
    }
    for (const { address, foreign } of affected)
      if (foreign !== undefined) return { refused: `${address} is on its slot, and ${foreign}` };
    const others = affected
      .map(({ address }) => this.#members.get(address))
      .filter((member) => member !== undefined && member !== own);
    const busy = others.find((member) => member?.isIdle === false);
    if (busy !== undefined) return { refused: `${busy.name} is on its slot, and the guest uses it` };
    let isReset = false;
    for (const member of others) member?.beforeReset();
    try {
      slot.reset();
      isReset = true;
    } catch (error) {
      return { refused: errorText(error) };
    } finally {
      for (const member of others) {
        if (member === undefined) continue;
        attempt(member.name, 'reset', () => member.afterReset(isReset));
        if (isReset) note(member.name, 'reset', `the device is reset with its slot, by ${own.name}`);
      }
    }
    return { done: affected.map(({ address }) => address).join(', ') };
  }
}
