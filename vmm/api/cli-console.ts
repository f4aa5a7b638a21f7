/** `tsvisor ctl SOCKET console`: what the first serial port says, and typing at it. */
import type { Output } from '../output.js';
import { SerialTerminal } from '../serial-terminal.js';
import type { VirtualMachine } from '../virtual-machine.js';
import type { ApiClient } from './client.js';

/** What is sent at once; the server takes 64 KiB. */
const PIECE_BYTES = 32 << 10;

const type = async (client: ApiClient, bytes: Uint8Array): Promise<void> =>
  void (await client.call('POST', '/v1/console', bytes));

/** Prints the console. @param isFollowing also what comes, until the end. @throws as ApiClient.call */
export const printConsole = (client: ApiClient, isFollowing: boolean, out: Output): Promise<void> =>
  client.follow(`/v1/console?follow=${isFollowing}`, (piece) => out.write(piece));

/**
 * Types standard input at the console. At a terminal, which is raw meanwhile, also prints what comes, until Ctrl-A x; else until
 * the end of the input.
 * @throws as ApiClient.call
 */
export async function typeAtConsole(client: ApiClient, isFollowing: boolean, out: Output): Promise<void> {
  if (process.stdin.isTTY) return typeAtTerminal(client, out);
  const following = isFollowing ? printConsole(client, true, out) : undefined;
  following?.catch(() => {}); // which is awaited below
  for await (const piece of process.stdin as AsyncIterable<Buffer>)
    for (let at = 0; at < piece.length; at += PIECE_BYTES)
      await type(client, piece.subarray(at, at + PIECE_BYTES));
  await following;
}

async function typeAtTerminal(client: ApiClient, out: Output): Promise<void> {
  const machine = new RemoteSerial(client);
  using _terminal = SerialTerminal.open(machine, {
    print: (line) => console.error(line),
    ending: 'leave the console; the machine runs on',
  });
  await client.follow('/v1/console?follow=true', (piece) => out.write(piece), machine.left);
  if (machine.failure !== undefined) throw machine.failure;
}

/** The first serial port of a machine of another process. */
class RemoteSerial implements Pick<VirtualMachine, 'typeSerial' | 'stop' | 'pressPowerButton'> {
  readonly #client: ApiClient;
  readonly #leaving = new AbortController();
  #last: Promise<boolean> = Promise.resolve(true);
  /** The error that ended the typing. */
  failure: unknown;

  constructor(client: ApiClient) {
    this.#client = client;
  }

  /** Aborted when the person leaves, or typing fails. */
  get left(): AbortSignal {
    return this.#leaving.signal;
  }

  typeSerial(bytes: Uint8Array): Promise<boolean> {
    this.#last = this.#last.then((isTaken) => isTaken && this.#type(bytes));
    return this.#last;
  }

  async #type(bytes: Uint8Array): Promise<boolean> {
    try {
      for (let at = 0; at === 0 || at < bytes.length; at += PIECE_BYTES)
        await type(this.#client, bytes.subarray(at, at + PIECE_BYTES));
      return true;
    } catch (error) {
      this.#fail(error);
      return false;
    }
  }

  stop(): void {
    this.#leaving.abort();
  }

  pressPowerButton(): void {
    this.#client.call('PUT', '/v1/power-button').catch((error: unknown) => this.#fail(error));
  }

  /** Once the person has left, nobody is interested any more. */
  #fail(error: unknown): void {
    if (this.#leaving.signal.aborted) return;
    this.failure = error;
    this.#leaving.abort();
  }
}
