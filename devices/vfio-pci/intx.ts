import type { Interrupts, LevelLine } from '../contracts.js';
import type { IrqPort } from './irq-port.js';
import { attempt, errorText, note } from './notes.js';

/**
 * What is left to do when the provider cannot unmask by eventfd: whenever `fd` is signalled (a guest's EOI), drain it
 * and call `unmask`, or the pin stays silent after its first interrupt.
 */
export interface SoftwareUnmask {
  readonly fd: number;
  unmask(): void;
}

/**
 * The interrupt pin: the device masks itself when it signals, the line stays asserted until the guest's EOI, whose
 * resample signal unmasks the device; if it still wants an interrupt it signals again.
 */
export class Intx {
  /** I/O APIC pin. */
  readonly gsi: number;
  readonly #name: string;
  readonly #irq: IrqPort;
  readonly #interrupts: Interrupts;
  #line: LevelLine | undefined;
  #softwareUnmask: SoftwareUnmask | undefined;

  constructor(name: string, gsi: number, irq: IrqPort, interrupts: Interrupts) {
    this.#name = name;
    this.gsi = gsi;
    this.#irq = irq;
    this.#interrupts = interrupts;
  }

  /** Set while the pin is in use with a provider that refuses (ENOTTY) to unmask by eventfd. */
  get softwareUnmask(): SoftwareUnmask | undefined {
    return this.#softwareUnmask;
  }

  start(): void {
    attempt(this.#name, 'intx', () => {
      const line = this.#interrupts.level(this.gsi, `${this.#name} INTx`);
      this.#line = line;
      this.#irq.trigger(0, [line.eventfd]);
      // Only after the trigger: Linux takes the unmask eventfd of an index that is in use. An EOI in between stays
      // in the resamplefd and is seen by whoever comes to listen.
      const how = this.#listenForEoi(line);
      note(this.#name, 'intx', `INTx on: pin ${this.gsi} of the I/O APIC, ${how}`);
    });
  }

  stop(): void {
    const line = this.#line;
    if (line === undefined) return;
    this.#line = undefined;
    this.#softwareUnmask = undefined;
    attempt(this.#name, 'intx', () => this.#irq.disable());
    attempt(this.#name, 'intx', () => line[Symbol.dispose]());
    note(this.#name, 'intx', 'INTx off');
  }

  /** A pin has no registers to follow. */
  refresh(): void {}

  #listenForEoi(line: LevelLine): string {
    try {
      this.#irq.unmaskBy(line.resamplefd);
      return 'unmasked by eventfd';
    } catch (error) {
      this.#softwareUnmask = {
        fd: line.resamplefd,
        unmask: () => {
          if (this.#line === line) attempt(this.#name, 'intx', () => this.#irq.unmask());
        },
      };
      return `to be unmasked by software, as the provider cannot by eventfd: ${errorText(error)}`;
    }
  }
}
