import { FAULTS, type Fault, type FaultName } from './faults.js';

/** Happen at once, and are over. */
const MOMENTARY: readonly FaultName[] = ['spurious-interrupt', 'request'];

/** The faults that a card has now. Machine thread only. */
export class ActiveFaults {
  readonly #arguments = new Map<FaultName, number>();
  readonly #changed: (fault: Fault | undefined) => void;

  /** @param changed called for each fault that comes, and with undefined when all are taken away */
  constructor(initial: readonly Fault[], changed: (fault: Fault | undefined) => void) {
    for (const { name, argument } of initial) this.#arguments.set(name, argument);
    this.#changed = changed;
  }

  add(fault: Fault): void {
    if (!MOMENTARY.includes(fault.name)) this.#arguments.set(fault.name, fault.argument);
    this.#changed(fault);
  }

  clear(): void {
    this.#arguments.clear();
    this.#changed(undefined);
  }

  has(name: FaultName): boolean {
    return this.#arguments.has(name);
  }

  /** 0 for a fault that the card does not have. */
  argument(name: FaultName): number {
    return this.#arguments.get(name) ?? 0;
  }

  get names(): FaultName[] {
    return [...this.#arguments.keys()];
  }

  /** One bit for each, by its number. */
  get bits(): number {
    return this.names.reduce((bits, name) => bits | (1 << FAULTS[name]), 0);
  }
}
