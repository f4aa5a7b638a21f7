import { rmSync } from 'node:fs';
/** Connects a machine's serial ports in the main thread, where their ends outlive a restart of the machine. */
import type { HostEnd } from '../devices/line/messages.js';
import { COM_PORTS } from '../devices/serial.js';
import { onProcessExit } from '../sys/process-exit.js';
import { Scope } from '../sys/scope.js';
import type { SerialLink } from './protocol.js';
import { parseSerialEnd, type SerialEnd } from './serial-end.js';
import { SerialInput } from './serial-input.js';

/** A serial port of the machine. */
export interface SerialPortInfo {
  /** `COM1`; the guest's Linux calls it ttyS0. */
  readonly name: string;
  /** Its end, as in the configuration: `pty`, `unix:/run/com1.sock`. */
  readonly end: string;
  /** The terminal of a pty, `/dev/pts/3`; the path of a socket or file. */
  readonly address: string | undefined;
}

/** The ports of one machine. Main thread only. */
export class SerialLinks implements Disposable {
  /** Resolves when the ends are open. Rejects with the error that prevented that. */
  readonly opened: Promise<readonly SerialPortInfo[]>;
  readonly #texts: readonly string[];
  readonly #ends: readonly SerialEnd[];
  readonly #inputs: readonly (SerialInput | undefined)[];
  readonly #scope = new Scope();
  #links: readonly (SerialLink | undefined)[];

  /** @param wake called when a port has input, with its number */
  constructor(ends: readonly string[], wake: (port: number) => void) {
    this.#texts = ends;
    this.#ends = ends.map(parseSerialEnd);
    this.#inputs = this.#ends.map(({ kind }, port) =>
      kind === 'observer' || kind === 'stdio' ? new SerialInput(() => wake(port)) : undefined,
    );
    this.#links = this.#inputs.map((input) => input && { kind: 'observer', input: input.buffer });
    this.opened = this.#open();
    this.opened.catch(() => {}); // it reaches whoever awaits it
  }

  /** Whether the ends have to be opened, which takes a turn of the event loop. */
  get needOpening(): boolean {
    return this.#ends.some((end) => hostEndOf(end) !== undefined);
  }

  /** For the machine thread; undefined for a port that is not there. */
  get links(): readonly (SerialLink | undefined)[] {
    return this.#links;
  }

  /** @throws RangeError if the port is not the observer's */
  type(port: number, bytes: Uint8Array): Promise<boolean> {
    const input = this.#inputs[port];
    if (input !== undefined) return input.type(bytes);
    const end = this.#texts[port];
    const what = end === undefined ? 'is not there' : `is connected to ${end}`;
    throw new RangeError(`serial port ${port} ${what}: only an observer's port can be typed at`);
  }

  /** A port has room again. */
  pump(port: number): void {
    this.#inputs[port]?.pump();
  }

  async #open(): Promise<readonly SerialPortInfo[]> {
    if (this.needOpening) {
      // Most machines have no use for it.
      const { openHostEnd, createLineBuffers } = await import('../devices/line/index.js');
      this.#links = this.#ends.map((end, port) => {
        const hostEnd = hostEndOf(end);
        if (hostEnd === undefined) return this.#links[port];
        const opened = this.#scope.own(openHostEnd(hostEnd));
        return { kind: 'line', end: opened.numbers, buffers: createLineBuffers() };
      });
      // A process that exits without closing the machine closes its descriptors, and would leave its sockets' files.
      const sockets = this.#ends.flatMap((end) => (end.kind === 'unix' ? end.path : []));
      this.#scope.own(
        onProcessExit(() => {
          for (const path of sockets) rmSync(path, { force: true });
        }),
      );
    }
    return this.#links.flatMap((link, port) => {
      const [name, end] = [COM_PORTS[port]?.name, this.#texts[port]];
      if (link === undefined || name === undefined || end === undefined) return [];
      return { name, end, address: link.kind === 'line' ? link.end.address : undefined };
    });
  }

  /** Closes the ends. Call it after the threads have ended. */
  [Symbol.dispose](): void {
    for (const input of this.#inputs) input?.end();
    this.#scope[Symbol.dispose]();
  }
}

/** undefined for an end that this process is itself. */
function hostEndOf(end: SerialEnd): HostEnd | undefined {
  if ('path' in end) return { kind: end.kind === 'unix' ? 'listen' : 'file', path: end.path };
  return end.kind === 'pty' ? { kind: 'pty', path: '' } : undefined;
}
