/** Our client, for a server that is played to it. @see client-thread.ts */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { workerUrl } from '../../../sys/worker-url.js';
import type { VfioUserClientUnderTest } from '../conformance/index.js';
import type { ClientRequest } from './client-thread.js';

/** A thread in which our client attaches to one server after the other. */
export class ClientThread implements AsyncDisposable {
  readonly #worker = new Worker(workerUrl('vfio/user/testing/client-thread.js'), {
    trackUnmanagedFds: false,
  });
  readonly #ended = once(this.#worker, 'exit');
  readonly #waiting: (() => void)[] = [];
  #problem: string | undefined;

  /** Returns when it is there, with all that it keeps open. */
  static async start(): Promise<ClientThread> {
    const client = new ClientThread();
    await client.#ask({ what: 'detach' });
    return client;
  }

  private constructor() {
    this.#worker.on('message', () => this.#waiting.shift()?.());
    this.#worker.once('exit', () => {
      for (const resolve of this.#waiting.splice(0)) resolve();
    });
    this.#worker.once('error', (error) => {
      this.#problem = `it throws ${error}`;
    });
  }

  /** @param timeoutMs how long it waits for an answer */
  attach(path: string, timeoutMs: number): VfioUserClientUnderTest & AsyncDisposable {
    const attached = this.#ask({ what: 'attach', path, timeoutMs });
    return {
      attached,
      problem: () => this.#problem,
      [Symbol.asyncDispose]: () => this.#ask({ what: 'detach' }),
    };
  }

  /** It does one thing after the other, and then says so. */
  #ask(request: ClientRequest): Promise<void> {
    this.#worker.postMessage(request);
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#worker.postMessage({ what: 'end' } satisfies ClientRequest);
    await this.#ended;
  }
}
