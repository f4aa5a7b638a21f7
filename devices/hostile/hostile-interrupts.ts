import type { EventTask } from '../../sys/event-task.js';
import { duplicateFd, Fd } from '../../sys/fd.js';
import { Scope } from '../../sys/scope.js';
import {
  type IrqSet,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_IRQ_SET_DATA_NONE,
  VFIO_PCI_MSIX_IRQ_INDEX,
} from '../../vfio/uapi.js';
import type { InterruptCommand } from './messages.js';

/** A vector's eventfd that the device signals, and the user's behind it. */
interface Pair extends Disposable {
  readonly from: Fd;
  readonly to: Fd;
}

/**
 * Puts eventfds of its own between a device and its user, so that the interrupt task can mutate what passes. INTx, MSI and MSI-X
 * only: REQ and ERR are for the VMM. Machine thread only.
 */
export class HostileInterrupts implements Disposable {
  readonly #task: EventTask;
  readonly #pairs = new Map<number, Map<number, Pair>>();

  constructor(task: EventTask) {
    this.#task = task;
  }

  /** @param pass sets what it gets with the device. @throws what that throws; EBADF for a descriptor that is closed */
  set(given: IrqSet, pass: (set: IrqSet) => void): void {
    const isTrigger = (given.flags & VFIO_IRQ_SET_ACTION_TRIGGER) !== 0;
    if (given.index > VFIO_PCI_MSIX_IRQ_INDEX || !isTrigger) {
      pass(given);
      return;
    }
    if ((given.flags & VFIO_IRQ_SET_DATA_EVENTFD) !== 0) {
      this.#setEventfds(given, pass);
      return;
    }
    pass(given);
    if (given.count === 0 && (given.flags & VFIO_IRQ_SET_DATA_NONE) !== 0) this.#clear(given.index);
  }

  #setEventfds(given: IrqSet, pass: (set: IrqSet) => void): void {
    using scope = new Scope();
    const { index, start, count, data = [] } = given;
    const made = Array.from({ length: count }, (_, i): Pair | undefined => {
      const user = data[i] ?? -1;
      return user < 0 ? undefined : scope.own(pairOf(user, `interrupt ${start + i}`));
    });
    pass({ ...given, data: made.map((pair) => pair?.from.number ?? -1) });
    const kept = this.#pairs.get(index) ?? new Map<number, Pair>();
    this.#pairs.set(index, kept);
    const vectors = made.map((pair, i) => ({
      vector: start + i,
      from: pair?.from.number ?? -1,
      to: pair?.to.number ?? -1,
    }));
    this.#call({ kind: 'set', index, vectors });
    scope.move(); // the map's from here on
    for (const [i, pair] of made.entries()) {
      kept.get(start + i)?.[Symbol.dispose]();
      if (pair === undefined) kept.delete(start + i);
      else kept.set(start + i, pair);
    }
  }

  #clear(index: number): void {
    this.#call({ kind: 'clear', index, vectors: [] });
    for (const pair of this.#pairs.get(index)?.values() ?? []) pair[Symbol.dispose]();
    this.#pairs.delete(index);
  }

  #call(command: InterruptCommand): void {
    this.#task.call(command);
  }

  /** The device's last close. */
  [Symbol.dispose](): void {
    for (const index of [...this.#pairs.keys()]) this.#clear(index);
  }
}

function pairOf(user: number, name: string): Pair {
  using scope = new Scope();
  const to = scope.own(duplicateFd(user, name));
  const from = scope.own(Fd.eventfd(`hostile ${name}`));
  const owned = scope.move();
  return { from, to, [Symbol.dispose]: () => owned[Symbol.dispose]() };
}
