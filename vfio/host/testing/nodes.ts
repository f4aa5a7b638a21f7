import type { NodeProbe } from '../check/node-probe.js';
import type { DeviceNumber } from '../system.js';

interface FakeNode {
  readonly number: DeviceNumber | undefined;
  readonly error: string | undefined;
}

/** Device files without a /dev: only their numbers, and what an open would say. */
export class FakeNodes implements NodeProbe {
  readonly #nodes = new Map<string, FakeNode>();
  /** Undefined for root. */
  user: string | undefined;

  /** @param number `10:196`; undefined for a file that is no device */
  add(path: string, number: string | undefined, error?: string): void {
    const [major = 0, minor = 0] = (number ?? '').split(':').map(Number);
    this.#nodes.set(path, { number: number === undefined ? undefined : { major, minor }, error });
  }

  remove(path: string): void {
    this.#nodes.delete(path);
  }

  access(path: string): string | undefined {
    const node = this.#nodes.get(path);
    return node === undefined ? 'ENOENT' : node.error;
  }

  deviceNumber(path: string): DeviceNumber | undefined {
    return this.#nodes.get(path)?.number;
  }
}
