import { readSync } from 'node:fs';
import { Fd } from '../../sys/fd.js';
import { UnixAcceptor } from '../../sys/unix-socket.js';
import type { HostEndNumbers } from './messages.js';

/** An open end, as the event thread uses it. It closes only the connections of clients that have left. */
export interface HostFile extends Disposable {
  /** To read and write; -1 while a socket that listens has no client. */
  readonly fd: number;
  /** The same, for waiting until it is writable. */
  readonly writableFd: number;
  /** Becomes readable when a process opens the other side; -1 if none can. */
  readonly arrivals: number;
  /** Whether to leave arrivals alone while a peer is there: the next client waits until this one leaves. */
  readonly hasOnePeer: boolean;
  /** Whether nobody ever sends anything. */
  readonly isWriteOnly: boolean;
  /** Whether the other side is open from the start. */
  readonly isOpen: boolean;
  /** Takes an arrival. Returns whether somebody has come. @throws SysError EMFILE for a client that is sent away */
  arrive(): boolean;
  /** The other side has left. */
  leave(): void;
  /** What to report of a peer that comes; undefined for nothing. */
  readonly arrived: string | undefined;
  /** What to report of a peer that leaves. @param code of the error of the write that failed */
  left(code: string | undefined): string;
}

/** @param end open until the result is disposed */
export function hostFile(end: HostEndNumbers): HostFile {
  return end.kind === 'listen' ? new Listening(end) : fixedFile(end);
}

function fixedFile({ kind, address, fd, writableFd, arrivals }: HostEndNumbers): HostFile {
  const scratch = new Uint8Array(4096);
  return {
    fd,
    writableFd,
    arrivals,
    hasOnePeer: false,
    isWriteOnly: kind === 'file',
    isOpen: kind !== 'pty',
    arrive() {
      try {
        return readSync(arrivals, scratch) > 0;
      } catch {
        return false;
      }
    },
    leave() {},
    arrived: kind === 'pty' ? `${address} was opened` : undefined,
    left: (code) =>
      kind === 'pty'
        ? `${address} was closed`
        : kind === 'file'
          ? `${address} cannot be written (${code}): the guest's output is dropped from here on`
          : `${address}: the peer has disconnected`,
    [Symbol.dispose]() {},
  };
}

/** A socket that listens, with one client at a time. Its numbers are in shared memory: the next event thread finds it. */
class Listening implements HostFile {
  readonly arrivals: number;
  readonly hasOnePeer = true;
  readonly isWriteOnly = false;
  readonly isOpen: boolean;
  readonly arrived: string;
  readonly #address: string;
  readonly #client: Int32Array;
  readonly #acceptor: UnixAcceptor;

  constructor({ address, arrivals, client }: HostEndNumbers) {
    this.#address = address;
    this.arrivals = arrivals;
    this.#client = new Int32Array(client);
    this.#acceptor = new UnixAcceptor(arrivals, address);
    this.isOpen = this.fd >= 0;
    this.arrived = `${address}: a client has connected`;
  }

  get fd(): number {
    return this.#client[0] as number;
  }

  get writableFd(): number {
    return this.#client[1] as number;
  }

  arrive(): boolean {
    const client = this.#acceptor.accept(true);
    if (client === undefined) return false;
    try {
      this.#client[1] = client.duplicate().number;
    } catch (error) {
      client[Symbol.dispose]();
      throw error;
    }
    this.#client[0] = client.number; // from now on, the shared memory owns both
    return true;
  }

  leave(): void {
    const [fd, writableFd] = this.#client;
    this.#client.fill(-1);
    for (const number of [fd, writableFd])
      if (number !== undefined && number >= 0) Fd.adopt(number, this.#address)[Symbol.dispose]();
  }

  left(): string {
    return `${this.#address}: the client has disconnected`;
  }

  [Symbol.dispose](): void {
    this.#acceptor[Symbol.dispose]();
  }
}
