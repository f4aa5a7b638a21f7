import { signalEventfd } from '../../sys/eventfd.js';
import type { VectorState } from '../../vfio/assign/index.js';
import { VFIO_IRQ_INFO_NORESIZE } from '../../vfio/uapi.js';
import { availableVectors } from '../../vfio/vector-limit.js';
import type { Interrupts, MsiLine } from '../contracts.js';
import type { IrqPort } from './irq-port.js';
import { attempt, type NoteSubject, note, plural } from './notes.js';

interface Vector {
  readonly line: MsiLine;
  address: bigint;
  data: number;
}

/**
 * The vectors of MSI or MSI-X while it is enabled. Each has a line into the guest, whose eventfd the provider signals.
 * A masked vector keeps its line, so that interrupts raised meanwhile are delivered at unmask. If the host fails a
 * request, that is noted and the vector stays silent: there is no way to report it to the guest.
 */
export class MessageVectors {
  readonly #name: string;
  readonly #what: NoteSubject;
  readonly #irq: IrqPort;
  readonly #interrupts: Interrupts;
  #vectors: (Vector | undefined)[] = [];
  readonly #leftOut = new Set<number>();
  #isStarted = false;

  constructor(name: string, what: NoteSubject, irq: IrqPort, interrupts: Interrupts) {
    this.#name = name;
    this.#what = what;
    this.#irq = irq;
    this.#interrupts = interrupts;
  }

  /** VFIO_IRQ_INFO_NORESIZE: vectors that {@link start} does not wire cannot be added later. */
  get isFixed(): boolean {
    return (this.#irq.info.flags & VFIO_IRQ_INFO_NORESIZE) !== 0;
  }

  /** The name in notes. */
  get #label(): string {
    return this.#what === 'msix' ? 'MSI-X' : 'MSI';
  }

  get isStarted(): boolean {
    return this.#isStarted;
  }

  /**
   * Wires vectors 0 to `count` - 1 in one SET_IRQS, which also enables the device's interrupts. Vectors that are not
   * `wanted` get no eventfd. If the host has fewer, retries with as many as it has, as QEMU does; if it does not say,
   * with half. A vector left out stays silent until the next start.
   */
  start(count: number, wanted: (vector: number) => boolean): void {
    this.#leftOut.clear();
    this.#vectors = new Array(Math.min(count, this.#irq.info.count)).fill(undefined);
    const fds = this.#vectors.map((_, vector) => (wanted(vector) ? this.#createLine(vector) : -1));
    this.#isStarted = true;
    while (fds.length > 0 && !this.#enable(fds)) {}
    this.#leaveOut(fds.length, this.#vectors.length);
    const used = fds.filter((fd) => fd >= 0).length;
    // Those whose eventfd could not be created are enabled in the device, and silent.
    const silent = fds.filter((fd, vector) => fd < 0 && wanted(vector)).length;
    note(
      this.#name,
      this.#what,
      `${this.#label} on: ${fds.length - silent} of ${plural(count, 'vector')} wired, ${plural(used, 'irqfd')}`,
    );
  }

  /** Returns whether the vectors are wired; if not, shortens the list to what is worth another try. */
  #enable(fds: number[]): boolean {
    let room = fds.length >> 1;
    const isWired = attempt(this.#name, this.#what, () => {
      try {
        this.#irq.trigger(0, fds);
      } catch (error) {
        const available = availableVectors(error) ?? room;
        if (available < fds.length) room = available; // otherwise it would never end
        throw error;
      }
    });
    if (!isWired) fds.length = Math.max(room, 0);
    return isWired;
  }

  /**
   * Closes the lines of vectors that the host does not have, which would use up irqfds and routes. They are not tried
   * again at each of the guest's writes to the table, each of which would report the failure.
   */
  #leaveOut(from: number, end: number): void {
    for (let vector = from; vector < end; vector++) {
      const line = this.#vectors[vector]?.line;
      if (line !== undefined) attempt(this.#name, this.#what, () => line[Symbol.dispose]());
      this.#vectors[vector] = undefined;
      this.#leftOut.add(vector);
    }
  }

  /** Wires one more vector while started. Does nothing if it is wired already. */
  add(vector: number): void {
    if (this.#vectors[vector] !== undefined || vector >= this.#irq.info.count) return;
    if (this.#leftOut.has(vector)) return;
    const fd = this.#createLine(vector);
    if (fd < 0) return;
    const isWired = attempt(this.#name, this.#what, () => this.#irq.trigger(vector, [fd]));
    if (isWired) note(this.#name, this.#what, `${this.#label} vector ${vector}: irqfd added`);
    else this.#leaveOut(vector, vector + 1);
  }

  /** Unmasks the vector: its interrupts send this message. */
  deliver(vector: number, address: bigint, data: number): void {
    const found = this.#vectors[vector];
    if (found === undefined) return;
    if (found.line.isOpen && found.address === address && found.data === data) return;
    found.address = address;
    found.data = data;
    attempt(this.#name, this.#what, () => found.line.open(address, data));
  }

  /** Masks the vector: its interrupts stay pending. */
  hold(vector: number): void {
    const line = this.#vectors[vector]?.line;
    if (line?.isOpen) attempt(this.#name, this.#what, () => line.close());
  }

  isPending(vector: number): boolean {
    const line = this.#vectors[vector]?.line;
    return line !== undefined && !line.isOpen && line.isPending();
  }

  /**
   * The vectors with a pending interrupt. Masks each for a moment: KVM then has delivered all that was signalled before, and what
   * comes later is pending.
   */
  settle(): number[] {
    const pending: number[] = [];
    for (const [vector, found] of this.#vectors.entries()) {
      if (found === undefined) continue;
      const { line, address, data } = found;
      const isOpen = line.isOpen;
      this.hold(vector);
      if (line.isPending()) pending.push(vector);
      if (isOpen) attempt(this.#name, this.#what, () => line.open(address, data));
    }
    return pending;
  }

  /** Raises the vector's interrupt, as the device does. Does nothing if it has no line. */
  raise(vector: number): void {
    const line = this.#vectors[vector]?.line;
    if (line !== undefined) signalEventfd(line.eventfd);
  }

  /** The vectors that have a line. */
  get states(): readonly VectorState[] {
    return this.#vectors.flatMap((found, vector) =>
      found === undefined
        ? []
        : [{ vector, isMasked: !found.line.isOpen, isPending: !found.line.isOpen && found.line.isPending() }],
    );
  }

  /** Disables the device's interrupts. Pending ones are dropped. */
  stop(): void {
    if (!this.#isStarted) return;
    this.#isStarted = false;
    attempt(this.#name, this.#what, () => this.#irq.disable());
    for (const vector of this.#vectors) {
      if (vector !== undefined) attempt(this.#name, this.#what, () => vector.line[Symbol.dispose]());
    }
    this.#vectors = [];
    note(this.#name, this.#what, `${this.#label} off`);
  }

  /** Creates a vector's line. Returns its eventfd, or -1 if that fails. */
  #createLine(vector: number): number {
    let fd = -1;
    attempt(this.#name, this.#what, () => {
      const line = this.#interrupts.msi(`${this.#name} ${this.#what} ${vector}`);
      this.#vectors[vector] = { line, address: 0n, data: 0 };
      fd = line.eventfd;
    });
    return fd;
  }
}
