/** For lab tests: the shell of an L2 with the check `shell`. */
import type { FreshMachine } from '../vmm/kit/index.js';

/** Software emulation stands still for seconds now and then. */
export const PATIENT = { timeoutMs: 120_000 };

/** A shell in the guest. */
export class GuestShell {
  readonly #machine: FreshMachine;
  #commands = 0;

  constructor(machine: FreshMachine) {
    this.#machine = machine;
  }

  /** What a command prints, in one line. */
  async answer(command: string): Promise<string> {
    const number = ++this.#commands;
    // The shell asks the terminal where its cursor is, and takes the first character for the answer.
    await this.#machine.type(` echo ANSWER-$((${number})): $(${command}) :END`);
    const pattern = new RegExp(`\nANSWER-${number}: ([^\r\n]*) :END`);
    return pattern.exec(await this.#machine.says(pattern, PATIENT))?.[1] ?? '';
  }
}
