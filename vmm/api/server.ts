import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { UnixListener } from '../../sys/unix-socket.js';
import { parse } from '../config.js';
import { ConfigError } from '../config-error.js';
import { errorBody, RequestError, statusOf } from './error-status.js';
import { createOpenApi } from './openapi.js';
import { type Answer, type ControlledMachine, createRoutes, encodeJson, type Route } from './routes.js';
import { slotSchema } from './schemas.js';

/** Connections at once; more are closed at once. */
export const MOST_CONNECTIONS = 32;
/** Requests at once, over all connections, which can each send several ahead. */
export const MOST_REQUESTS = 32;
/** A configuration of 29 devices is a few KiB. */
export const MOST_BODY_BYTES = 64 << 10;
const MOST_HEADER_BYTES = 8 << 10;
/** Time to send the headers, and the whole request. */
const HEADERS_MS = 5000;
const REQUEST_MS = 10_000;
/** Time to read an answer; for the console, each piece of it. */
const READER_MS = 30_000;
/** How often the times above are checked. */
const CHECK_MS = 1000;
/** How long open answers have at the end. */
const FAREWELL_MS = 1000;
/** What is given to a follower of the console at once. */
const NEWS_BYTES = 16 << 10;

const HEADERS = { 'Cache-Control': 'no-store', 'X-Content-Type-Options': 'nosniff' };

interface Found {
  readonly route: Route;
  readonly slot: string | undefined;
}

/**
 * The API of one machine: HTTP with JSON on a unix socket, which only its owner can connect to. A client that sends garbage,
 * hangs or dies costs a connection for some seconds. Main thread only.
 */
export class ApiServer implements AsyncDisposable {
  /** Path of its socket. */
  readonly path: string;
  readonly #machine: ControlledMachine;
  readonly #listener: UnixListener;
  readonly #server: Server;
  readonly #routes: readonly Route[];
  readonly #openApi: string;
  readonly #following = new Set<() => void>();
  #requests = 0;

  private constructor(machine: ControlledMachine, listener: UnixListener, server: Server, version: string) {
    this.path = listener.path;
    this.#machine = machine;
    this.#listener = listener;
    this.#server = server;
    this.#routes = createRoutes(version);
    this.#openApi = JSON.stringify(createOpenApi(this.#routes, version), undefined, 2);
    server.on('request', (request, response) => void this.#serve(request, response));
    const end = () => this.#endFollowing();
    machine.finished.then(end, end);
  }

  /**
   * Listens on a unix socket that is its owner's alone (mode 0600). The file of a process that no longer listens is replaced.
   * @param version of the program, for `info` and the OpenAPI document
   * @throws SysError EADDRINUSE if another process listens there, or the file is not a socket; EINVAL for an invalid path
   */
  static async start(machine: ControlledMachine, path: string, version: string): Promise<ApiServer> {
    const listener = UnixListener.listen(path, 0o600);
    const server = createServer({
      maxHeaderSize: MOST_HEADER_BYTES,
      headersTimeout: HEADERS_MS,
      requestTimeout: REQUEST_MS,
      keepAliveTimeout: HEADERS_MS,
      connectionsCheckingInterval: CHECK_MS,
    });
    server.maxConnections = MOST_CONNECTIONS;
    const fd = listener.fd.duplicate();
    try {
      server.listen({ fd: fd.number }); // which closes it
      await once(server, 'listening');
    } catch (error) {
      listener[Symbol.dispose]();
      throw error;
    }
    return new ApiServer(machine, listener, server, version);
  }

  /** Removes the socket, lets open answers end for up to a second, and closes. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#server.listening) return;
    this.#listener[Symbol.dispose]();
    this.#endFollowing();
    const closed = once(this.#server, 'close');
    this.#server.close();
    this.#server.closeIdleConnections();
    const late = setTimeout(() => this.#server.closeAllConnections(), FAREWELL_MS);
    await closed;
    clearTimeout(late);
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    response.on('error', () => {});
    if (this.#requests >= MOST_REQUESTS) {
      this.#refuse(response, new RequestError(503, `${MOST_REQUESTS} requests are under way already`));
      return;
    }
    this.#requests++;
    response.once('close', () => this.#requests--);
    try {
      await this.#answer(request, response);
    } catch (error) {
      this.#refuse(response, error);
    }
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { pathname, searchParams } = parseTarget(request.url ?? '');
    if (pathname === '/openapi.json' && request.method === 'GET') {
      send(response, 200, 'application/json', this.#openApi);
      return;
    }
    const { route, slot } = this.#find(request.method ?? '', pathname);
    const query = parse(route.query, queryOf(searchParams));
    const body = await readBody(request);
    const given = {
      slot: slot === undefined ? 0 : parse(slotSchema, slot),
      query,
      body: route.body === undefined ? undefined : parseJson(body),
    };
    this.#send(response, route, await route.answer(this.#machine, given));
  }

  #find(method: string, path: string): Found {
    const found = this.#routes.flatMap((route): Found[] => {
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

  #send(response: ServerResponse, { success }: Route, answer: Answer): void {
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
        if (answer.isFollowing) this.#follow(response, answer.from);
        else {
          const { from, bytes } = this.#machine.console.since(answer.from);
          response.setHeader('Console-From', String(from));
          send(response, success.status, 'application/octet-stream', bytes);
        }
        break;
    }
  }

  /** Sends what the console says as it comes. A slow reader misses what the ring no longer has. */
  #follow(response: ServerResponse, from: number | undefined): void {
    const { console } = this.#machine;
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
    if (this.#machine.info().state === 'ended') end();
    else pump();
  }

  #endFollowing(): void {
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

async function readBody(request: IncomingMessage): Promise<string> {
  const pieces: Buffer[] = [];
  let bytes = 0;
  for await (const piece of request as AsyncIterable<Buffer>) {
    bytes += piece.length;
    if (bytes > MOST_BODY_BYTES) throw new RequestError(413, `a body has ${MOST_BODY_BYTES} bytes at most`);
    pieces.push(piece);
  }
  return Buffer.concat(pieces).toString();
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new ConfigError([{ path: 'body', text: `is not JSON: ${(error as Error).message}` }]);
  }
}
