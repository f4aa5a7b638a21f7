import { type IncomingMessage, request } from 'node:http';
import { errno } from '../../sys/errno.js';
import { fromNodeError, SysError } from '../../sys/error.js';

const HINTS: Readonly<Record<string, string>> = {
  ENOENT: 'no machine has its API there: start one with tsvisor run --api unix:PATH',
  ECONNREFUSED: 'the machine that made this socket has ended',
  EACCES: 'the socket is of another user, who started the machine',
  ECONNRESET: 'the machine has too many clients, or has ended',
};

/** An answer of the API. */
export interface ApiAnswer {
  readonly status: number;
  readonly type: string;
  readonly body: Buffer;
}

/** An error that the API answered with: its message is for people. */
export class ApiError extends Error {
  readonly code: string | undefined;
  /** The answer's JSON. */
  readonly json: unknown;

  constructor(answer: ApiAnswer) {
    const json = parsed(answer);
    const { message = `HTTP status ${answer.status}`, code } = json?.error ?? {};
    super(message);
    this.name = 'ApiError';
    this.code = code;
    this.json = json;
  }
}

interface ErrorAnswer {
  readonly error?: { readonly message?: string; readonly code?: string };
}

function parsed({ body }: ApiAnswer): ErrorAnswer | undefined {
  try {
    return JSON.parse(body.toString()) as ErrorAnswer;
  } catch {
    return undefined;
  }
}

/** A client of one machine's API. */
export class ApiClient {
  readonly #path: string;

  /** @param path of the machine's socket */
  constructor(path: string) {
    this.#path = path;
  }

  /**
   * Calls the API.
   * @param body JSON, or bytes
   * @throws ApiError for an error that is answered; SysError ENOENT, ECONNREFUSED, EACCES if nobody listens
   */
  async call(method: string, target: string, body?: unknown): Promise<ApiAnswer> {
    const response = await this.#open(method, target, body);
    const pieces: Buffer[] = [];
    try {
      for await (const piece of response as AsyncIterable<Buffer>) pieces.push(piece);
    } catch (error) {
      throw this.#failure(error);
    }
    const answer = {
      status: response.statusCode ?? 0,
      type: response.headers['content-type'] ?? '',
      body: Buffer.concat(pieces),
    };
    if (answer.status >= 400) throw new ApiError(answer);
    return answer;
  }

  /**
   * Gives the pieces of an answer to `use` as they come, which is awaited, until its end or until `leaving` is aborted.
   * @throws as {@link call}
   */
  async follow(target: string, use: (piece: Uint8Array) => unknown, leaving?: AbortSignal): Promise<void> {
    const response = await this.#open('GET', target);
    const leave = () => response.destroy();
    leaving?.addEventListener('abort', leave, { once: true });
    if (leaving?.aborted) leave();
    try {
      for await (const piece of response as AsyncIterable<Buffer>) await use(piece);
    } catch (error) {
      if (!leaving?.aborted) throw this.#failure(error);
    } finally {
      leaving?.removeEventListener('abort', leave);
    }
  }

  #open(method: string, path: string, body?: unknown): Promise<IncomingMessage> {
    return new Promise((resolve, reject) => {
      const sent = request({ socketPath: this.#path, method, path, agent: false }, resolve);
      sent.on('error', (error) => reject(this.#failure(error)));
      if (body instanceof Uint8Array) {
        sent.setHeader('Content-Type', 'application/octet-stream');
        sent.end(body);
        return;
      }
      if (body !== undefined) sent.setHeader('Content-Type', 'application/json');
      sent.end(body === undefined ? undefined : JSON.stringify(body));
    });
  }

  #failure(error: unknown): unknown {
    const code = error instanceof Error && 'code' in error ? String(error.code) : '';
    if (code === 'ECONNRESET')
      return new SysError({
        call: 'read',
        target: this.#path,
        errno: errno.ECONNRESET,
        hint: HINTS.ECONNRESET,
      });
    return fromNodeError(error, 'connect', this.#path, HINTS[code]);
  }
}
