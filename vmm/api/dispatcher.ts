/** Answers the requests of an API: on its socket, and on the machine's page. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { parse } from '../config.js';
import { ConfigError } from '../config-error.js';
import { errorBody, RequestError, statusOf } from './error-status.js';
import { createOpenApi } from './openapi.js';
import { type Answer, encodeJson, type Route } from './routes.js';
import { slotSchema } from './schemas.js';

/** Requests at once, over all connections, which can each send several ahead. */
export const MOST_REQUESTS = 32;
/** A configuration of 29 devices is a few KiB. */
export const MOST_BODY_BYTES = 64 << 10;
/** Time to read an answer; for the console, each piece of it. */
const READER_MS = 30_000;
/** What is given to a follower of the console at once. */
const NEWS_BYTES = 16 << 10;

const HEADERS = { 'Cache-Control': 'no-store', 'X-Content-Type-Options': 'nosniff' };

type ConsoleAnswer = Extract<Answer, { kind: 'console' }>;

interface Found<M> {
  readonly route: Route<M>;
  readonly slot: string | undefined;
}

/** The API of one machine, or of something else that ends, whatever it is reached over. Main thread only. */
export class ApiDispatcher<M extends { readonly finished: Promise<unknown> }> {
  readonly #machine: M;
  readonly #routes: readonly Route<M>[];
  readonly #version: string;
  /** Made for whoever asks for it first. */
  #openApi: string | undefined;
  readonly #following = new Set<() => void>();
  #requests = 0;

  /** @param version of this program */
  constructor(machine: M, routes: readonly Route<M>[], version: string) {
    this.#machine = machine;
    this.#routes = routes;
    this.#version = version;
    const end = () => this.endFollowing();
    machine.finished.then(end, end);
  }

  /** Answers one request, if with an error. @param target path and query, as in {@link Route.path} */
  async serve(request: IncomingMessage, response: ServerResponse, target = request.url ?? ''): Promise<void> {
    response.on('error', () => {});
    if (this.#requests >= MOST_REQUESTS) {
      this.#refuse(response, new RequestError(503, `${MOST_REQUESTS} requests are under way already`));
      return;
    }
    this.#requests++;
    response.once('close', () => this.#requests--);
    try {
      await this.#answer(request, response, target);
    } catch (error) {
      this.#refuse(response, error);
    }
  }

  async #answer(request: IncomingMessage, response: ServerResponse, target: string): Promise<void> {
    const { pathname, searchParams } = parseTarget(target);
    if (pathname === '/openapi.json' && request.method === 'GET') {
      this.#openApi ??= JSON.stringify(createOpenApi(this.#routes, this.#version), undefined, 2);
      send(response, 200, 'application/json', this.#openApi);
      return;
    }
    const { route, slot } = this.#find(request.method ?? '', pathname);
    const query = parse(route.query, queryOf(searchParams));
    const body = await readBody(request);
    const gone = new AbortController();
    response.once('close', () => gone.abort());
    const given = {
      slot: slot === undefined ? 0 : parse(route.slots ?? slotSchema, slot),
      query,
      body: route.body === undefined || route.body === 'bytes' ? body : parseJson(body.toString()),
      gone: gone.signal,
    };
    this.#send(response, route, await route.answer(this.#machine, given));
  }

  #find(method: string, path: string): Found<M> {
    const found = this.#routes.flatMap((route): Found<M>[] => {
      const match = new RegExp(`^${route.path.replace('{slot}', '([^/]+)')}$`).exec(path);
      return match === null ? [] : [{ route, slot: match[1] }];
    });
    if (found.length === 0)
      throw new RequestError(404, `there is no ${path}: GET /openapi.json lists all paths`);
    const exact = found.find(({ route }) => route.method === method);
    const methods = found.map(({ route }) => route.method).join(', ');
    if (exact === undefined) throw new RequestError(405, `${path} takes ${methods}`);
    return exact;
  }

  #send(response: ServerResponse, { success }: Route<M>, answer: Answer): void {
    switch (answer.kind) {
      case 'json':
        send(response, success.status, 'application/json', encodeJson(answer.value));
        break;
      case 'bytes':
        send(response, success.status, answer.type, answer.bytes);
        break;
      case 'nothing':
        send(response, success.status);
        break;
      case 'console':
        if (answer.isFollowing) this.#follow(response, answer);
        else {
          const { from, bytes } = answer.of.console.since(answer.from);
          response.setHeader('Console-From', String(from));
          send(response, success.status, 'application/octet-stream', bytes);
        }
        break;
    }
  }

  /** Sends what the console says as it comes. A slow reader misses what the ring no longer has. */
  #follow(response: ServerResponse, { of, from }: ConsoleAnswer): void {
    const { console } = of;
    let next = console.since(from).from;
    let isFull = false;
    let isEnding = false;
    let timer: NodeJS.Timeout | undefined;
    const pump = (): void => {
      while (!isFull && !response.destroyed) {
        const news = console.since(next);
        if (news.bytes.length === 0) break;
        const bytes = news.bytes.subarray(0, NEWS_BYTES);
        next = news.from + bytes.length;
        isFull = !response.write(bytes);
        if (isFull) timer = setTimeout(() => response.destroy(), READER_MS).unref();
      }
      if (isEnding && !isFull) response.end();
    };
    const end = (): void => {
      isEnding = true;
      pump();
    };
    response.writeHead(200, {
      ...HEADERS,
      'Content-Type': 'application/octet-stream',
      'Console-From': String(next),
    });
    response.flushHeaders();
    const listening = console.listen(pump);
    this.#following.add(end);
    response.on('drain', () => {
      clearTimeout(timer);
      isFull = false;
      pump();
    });
    response.once('close', () => {
      clearTimeout(timer);
      listening[Symbol.dispose]();
      this.#following.delete(end);
    });
    if (of.info().state === 'ended') end();
    else pump();
  }

  /** Ends the answers that follow the console. */
  endFollowing(): void {
    for (const end of this.#following) end();
  }

  #refuse(response: ServerResponse, error: unknown): void {
    if (response.headersSent) {
      response.destroy();
      return;
    }
    const status = statusOf(error);
    // What is left of the request is not read.
    if (status === 413 || status === 503) response.setHeader('Connection', 'close');
    send(response, status, 'application/json', JSON.stringify(errorBody(error)));
  }
}

function send(response: ServerResponse, status: number, type?: string, body?: string | Uint8Array): void {
  if (response.destroyed) return;
  const late = setTimeout(() => response.destroy(), READER_MS).unref();
  response.once('close', () => clearTimeout(late));
  const content =
    body === undefined ? {} : { 'Content-Type': type, 'Content-Length': Buffer.byteLength(body) };
  response.writeHead(status, { ...HEADERS, ...content }).end(body);
}

function parseTarget(target: string): Pick<URL, 'pathname' | 'searchParams'> {
  try {
    return new URL(target, 'http://localhost');
  } catch {
    throw new RequestError(400, 'the request names no path');
  }
}

/** @throws ConfigError for a name that is given twice */
function queryOf(parameters: URLSearchParams): Readonly<Record<string, string>> {
  const query = new Map<string, string>();
  for (const [name, value] of parameters) {
    if (query.has(name)) throw new ConfigError([{ path: name, text: 'is given twice' }]);
    query.set(name, value);
  }
  return Object.fromEntries(query);
}

async function readBody(request: IncomingMessage): Promise<Buffer> {
  const pieces: Buffer[] = [];
  let bytes = 0;
  for await (const piece of request as AsyncIterable<Buffer>) {
    bytes += piece.length;
    if (bytes > MOST_BODY_BYTES) throw new RequestError(413, `a body has ${MOST_BODY_BYTES} bytes at most`);
    pieces.push(piece);
  }
  return Buffer.concat(pieces);
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new ConfigError([{ path: 'body', text: `is not JSON: ${(error as Error).message}` }]);
  }
}
