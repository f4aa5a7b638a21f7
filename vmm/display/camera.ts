import { renameSync, writeFileSync } from 'node:fs';
import { fromNodeError } from '../../sys/error.js';

/** What pictures can be taken of: a VirtualMachine, a DeviceServer. */
export interface Pictured {
  screenshot(slot?: number): Promise<Uint8Array>;
}

/** Saves pictures into a file: now, and whenever the process gets SIGUSR2. */
export class Camera implements Disposable {
  readonly #of: Pictured;
  readonly #path: string;
  readonly #slot: number | undefined;
  readonly #say: (text: string) => void;
  readonly #onSignal = () => void this.take();
  #hasSaved = false;
  /** One picture at a time: they go into one file. */
  #last: Promise<void> = Promise.resolve();

  constructor(of: Pictured, path: string, slot: number | undefined, say: (text: string) => void) {
    this.#of = of;
    this.#path = path;
    this.#slot = slot;
    this.#say = say;
    process.on('SIGUSR2', this.#onSignal);
  }

  /** Whether there is a picture, of whichever moment. */
  get hasSaved(): boolean {
    return this.#hasSaved;
  }

  /** Settles when it is saved; if it cannot be, a line on stderr says why. The file is whole whenever it is there. */
  take(): Promise<void> {
    this.#last = this.#last.then(() => this.#take());
    return this.#last;
  }

  async #take(): Promise<void> {
    try {
      const picture = await this.#of.screenshot(this.#slot);
      const part = `${this.#path}.part`;
      try {
        writeFileSync(part, picture);
        renameSync(part, this.#path);
      } catch (error) {
        throw fromNodeError(error, 'write', `picture ${this.#path}`);
      }
      this.#hasSaved = true;
      this.#say(`picture saved in ${this.#path}`);
    } catch (error) {
      const which = this.#hasSaved ? 'no later picture' : 'no picture';
      console.error(`tsvisor: ${which}: ${(error as Error).message}`);
    }
  }

  [Symbol.dispose](): void {
    process.off('SIGUSR2', this.#onSignal);
  }
}
