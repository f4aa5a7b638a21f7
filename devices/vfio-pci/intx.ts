import { signalEventfd } from '../../sys/eventfd.js';
import type { VectorState } from '../../vfio/assign/index.js';
import type { Interrupts, LevelLine, Signals } from '../contracts.js';
import type { IrqPort } from './irq-port.js';
import { attempt, errorText, note } from './notes.js';

/**
 * The interrupt pin. The device masks itself when it signals, and the line stays asserted until the guest's EOI, whose
 * resample signal unmasks the device. It signals again if it still needs service.
 */
export class Intx {
  /** I/O APIC pin. */
  readonly gsi: number;
  readonly #name: string;
  readonly #irq: IrqPort;
  readonly #interrupts: Interrupts;
  readonly #signals: Signals;
  #line: LevelLine | undefined;
  /** Watches for EOIs if the provider cannot unmask by eventfd. */
  #watch: Disposable | undefined;

  constructor(name: string, gsi: number, irq: IrqPort, interrupts: Interrupts, signals: Signals) {
    this.#name = name;
    this.gsi = gsi;
    this.#irq = irq;
    this.#interrupts = interrupts;
    this.#signals = signals;
  }

  start(): void {
    attempt(this.#name, 'intx', () => {
      const line = this.#interrupts.level(this.gsi, `${this.#name} INTx`);
      this.#line = line;
      this.#irq.trigger(0, [line.eventfd]);
      // After the trigger: Linux accepts the unmask eventfd only for an index in use. An earlier EOI stays counted
      // in the resamplefd until it is read.
      const how = this.#listenForEoi(line);
      note(this.#name, 'intx', `INTx on: pin ${this.gsi} of the I/O APIC, ${how}`);
    });
  }

  stop(): void {
    const line = this.#line;
    if (line === undefined) return;
    this.#line = undefined;
    this.#watch?.[Symbol.dispose]();
    this.#watch = undefined;
    attempt(this.#name, 'intx', () => this.#irq.disable());
    attempt(this.#name, 'intx', () => line[Symbol.dispose]());
    note(this.#name, 'intx', 'INTx off');
  }

  /** None is on its own: the pin is the I/O APIC's state, and the device's. */
  settle(): readonly number[] {
    return [];
  }

  /**
   * Asserts the pin until the guest's next EOI. A guest whose device wants nothing takes it for another device's that shares the
   * pin.
   */
  raise(): void {
    if (this.#line !== undefined) signalEventfd(this.#line.eventfd);
  }

  /** None: it is a pin. */
  readonly vectors: readonly VectorState[] = [];

  /** Does nothing: INTx has no registers to follow. */
  refresh(): void {}

  #listenForEoi(line: LevelLine): string {
    try {
      this.#irq.unmaskBy(line.resamplefd);
      return 'unmasked by eventfd';
    } catch (error) {
      this.#watch = this.#signals.watch(line.resamplefd, () => {
        attempt(this.#name, 'intx', () => this.#irq.unmask());
      });
      return `unmasked by software, as the provider does not support the eventfd: ${errorText(error)}`;
    }
  }
}
