import { writeOutputFile } from '../output-file.js';

/** A source of pictures: a VirtualMachine or a DeviceServer. */
export interface Pictured {
  screenshot(slot?: number): Promise<Uint8Array>;
}

/** Saves pictures to a file: on request, and whenever the process receives SIGUSR2. */
export class Camera implements Disposable {
  readonly #of: Pictured;
  readonly #path: string;
  readonly #slot: number | undefined;
  readonly #say: (text: string) => void;
  readonly #onSignal = () => void this.take();
  #hasSaved = false;
  /** Serialises pictures: they share one file. */
  #last: Promise<void> = Promise.resolve();

  constructor(of: Pictured, path: string, slot: number | undefined, say: (text: string) => void) {
    this.#of = of;
    this.#path = path;
    this.#slot = slot;
    this.#say = say;
    process.on('SIGUSR2', this.#onSignal);
  }

  /** Whether a picture has been saved. */
  get hasSaved(): boolean {
    return this.#hasSaved;
  }

  /** Resolves when a picture is saved, or after reporting on stderr why not. @see writeOutputFile */
  take(): Promise<void> {
    this.#last = this.#last.then(() => this.#take());
    return this.#last;
  }

  async #take(): Promise<void> {
    try {
      const picture = await this.#of.screenshot(this.#slot);
      await writeOutputFile(this.#path, picture, `picture ${this.#path}`);
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
