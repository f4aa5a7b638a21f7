/** For tests: the responder, and what the event thread leaves to the garbage collector while frames go through it. */
import { writeFileSync } from 'node:fs';
import { type NetBackend, type NetPort, responder } from '../../devices/net/index.js';
import { GarbageCount } from './collections.js';

/** Frames from the guest before the count, and within it. There is about one to the guest for each. */
export const WARM_UP_FRAMES = 1000;
export const COUNTED_FRAMES = 4000;

/** A megabyte is collected within a few of these. */
const WASTE_BYTES = 2000;

class CountedPort implements NetPort {
  readonly fd: number;
  readonly #port: NetPort;
  readonly #file: string;
  readonly #isWasteful: boolean;
  #frames = 0;
  #count: GarbageCount | undefined;
  #waste: number[] = [];

  constructor(port: NetPort, file: string, isWasteful: boolean) {
    this.fd = port.fd;
    this.#port = port;
    this.#file = file;
    this.#isWasteful = isWasteful;
  }

  get counters() {
    return this.#port.counters;
  }

  transmit(parts: readonly Uint8Array[]): boolean {
    this.#frames++;
    if (this.#isWasteful) this.#waste = new Array<number>(WASTE_BYTES / 8).fill(this.#waste.length);
    if (this.#frames === WARM_UP_FRAMES) this.#count = new GarbageCount();
    else if (this.#frames === WARM_UP_FRAMES + COUNTED_FRAMES)
      writeFileSync(this.#file, JSON.stringify(this.#count?.stop()));
    return this.#port.transmit(parts);
  }

  pending = (): number => this.#port.pending();
  receive = (parts: readonly Uint8Array[]): number => this.#port.receive(parts);
  [Symbol.dispose](): void {
    this.#port[Symbol.dispose]();
  }
}

/** `net=counted:FILE` writes a {@link Garbage} there; `net=counted:waste:FILE` allocates 2 KB at each frame. */
export const countedResponder: NetBackend = {
  name: 'counted',
  validate: (address) => (address === '' ? 'needs a file' : undefined),
  open(address) {
    const isWasteful = address.startsWith('waste:');
    return new CountedPort(responder.open(''), address.replace(/^waste:/, ''), isWasteful);
  },
};
