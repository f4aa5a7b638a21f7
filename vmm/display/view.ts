import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { fromNodeError } from '../../sys/error.js';
import { plain } from '../../vfio/chrome-trace.js';
import { controlsOf } from './controls.js';
import { Frames, LOOK_EVERY_MS, type PictureSource } from './frames.js';
import { HEADERS, pageFile } from './page-files.js';
import { MOST_PAGES, type Page, Pages } from './pages.js';
import {
  type MachineStatus,
  StatusReader,
  type StatusSource,
  type TimelineMark,
  type TimelineSlice,
} from './status.js';

/** What a view can show: a VirtualMachine, or a DeviceServer, of which it shows the pictures only. */
export interface Watched extends PictureSource, Partial<Omit<StatusSource, 'finished'>> {
  /** Settles when no further picture follows; of a machine, to its report. */
  readonly finished: Promise<unknown>;
}

/** Where the page is served, and what it shows. */
export interface ViewOptions {
  /** TCP port on 127.0.0.1; 0 selects a free one. */
  readonly port: number;
  /** PCI slot of the only display to show; all if absent. */
  readonly slot?: number | undefined;
}

/** Random bytes of a page's token: no other user of this machine guesses it. */
const TOKEN_BYTES = 24;
const ADDRESS = '127.0.0.1';
const NAMES = [ADDRESS, 'localhost'];
const MOST_CONNECTIONS = 32;
const MOST_BODY_BYTES = 16_384;
/** How long a connection may take to send a request, and may stay open without one: anybody here can connect. */
const REQUEST_MS = 15_000;
/** How long pages have at the end to fetch the last picture. */
const FAREWELL_MS = 5000;

/**
 * A page on 127.0.0.1 that shows a machine's displays live. The page requests each change, so a slow, hidden or paused
 * page costs nothing. Other users of this machine can connect, too: nothing is served without the token in the URL. Main
 * thread only.
 */
export class View implements AsyncDisposable {
  /** Its URL with the token: `http://127.0.0.1:8080/Zk3…/`. Whoever has it can use the page. */
  readonly url: string;
  readonly #token = randomBytes(TOKEN_BYTES).toString('base64url');
  readonly #server: Server;
  readonly #hosts: readonly string[];
  readonly #pages: Pages;
  readonly #status: StatusReader | undefined;
  readonly #controls: ReturnType<typeof controlsOf>;

  private constructor(watched: Watched, slot: number | undefined, server: Server, port: number) {
    this.#server = server;
    this.#pages = new Pages(new Frames(watched, slot));
    this.#status = isMachine(watched) ? new StatusReader(watched) : undefined;
    this.#controls = isMachine(watched) ? controlsOf(watched) : {};
    // Browsers omit http's default port.
    this.#hosts = NAMES.flatMap((name) => (port === 80 ? [name] : [`${name}:${port}`]));
    this.url = `http://${ADDRESS}:${port}/${this.#token}/`;
    const end = () => {
      this.#pages.isEnded = true;
    };
    watched.finished.then(end, end);
    server.on('request', (request, response) => {
      this.#answer(request, response).catch((error: Error) => response.destroy(error));
    });
  }

  /** @throws SysError EADDRINUSE or EACCES if the port is not available */
  static async start(watched: Watched, { port, slot }: ViewOptions): Promise<View> {
    const server = createServer({
      requestTimeout: REQUEST_MS,
      headersTimeout: REQUEST_MS,
      connectionsCheckingInterval: 1000,
    });
    server.keepAliveTimeout = REQUEST_MS;
    server.maxConnections = MOST_CONNECTIONS;
    server.listen(port, ADDRESS);
    try {
      await once(server, 'listening');
    } catch (error) {
      throw fromNodeError(error, 'listen', `${ADDRESS}:${port}`, 'choose another port, or 0 for a free one');
    }
    return new View(watched, slot, server, (server.address() as AddressInfo).port);
  }

  /** If the machine has ended, waits briefly for open pages to fetch the last picture; then closes. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#server.listening) return;
    const deadline = Date.now() + (this.#pages.isEnded ? FAREWELL_MS : 0);
    while (Date.now() < deadline && this.#pages.isAnyWaiting) await delay(LOOK_EVERY_MS);
    const closed = once(this.#server, 'close');
    this.#server.close();
    this.#server.closeAllConnections();
    await closed;
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const refuse = (status: number, text: string) =>
      response.writeHead(status, { ...HEADERS, 'Content-Type': 'text/plain' }).end(text);
    // DNS rebinding: under any other host name, the page belongs to another site, whose scripts could read it.
    if (!this.#hosts.includes(request.headers.host ?? '')) return void refuse(403, 'not by that name');
    const [, token = '', path, query] = /^\/([^/?]*)\/([^?]*)(?:\?(.*))?$/s.exec(request.url ?? '') ?? [];
    if (!isSame(token, this.#token)) return void refuse(403, NEEDS_TOKEN);
    const site = request.headers['sec-fetch-site'];
    if (path?.startsWith('do/') && request.method === 'POST')
      return this.#control(path.slice(3), request, refuse);
    if (request.method !== 'GET') return void refuse(405, 'GET only');
    const file = pageFile(path ?? '');
    if (file !== undefined) return void response.writeHead(200, file.headers).end(file.body);
    const search = new URLSearchParams(query);
    if (path !== 'frame' && path !== 'status' && path !== 'timeline') return void refuse(404, 'not found');
    if (site !== undefined && site !== 'same-origin') return void refuse(403, 'not from another site');
    const client = search.get('client') ?? '';
    if (!/^\w{8,64}$/.test(client)) return void refuse(400, 'missing page id');
    const page = this.#pages.find(client);
    if (page === undefined) return void refuse(503, `${MOST_PAGES} pages are open already`);
    if (path !== 'frame') {
      if (this.#status === undefined) return void response.writeHead(204, HEADERS).end();
      const after =
        path === 'timeline'
          ? { version: numberOf(search, 'version'), end: numberOf(search, 'end') }
          : undefined;
      const json = toJson(await this.#read(this.#status, page, after));
      return void response.writeHead(200, { ...HEADERS, 'Content-Type': 'application/json' }).end(json);
    }
    if (page.isServed) return void refuse(409, 'one request at a time');
    page.isServed = true;
    try {
      const message = await this.#pages.message(page, () => response.destroyed);
      const type = { 'Content-Type': 'application/octet-stream', 'Content-Length': message.length };
      response.writeHead(200, { ...HEADERS, ...type }).end(message);
    } finally {
      page.isServed = false;
      page.askedAt = Date.now();
    }
  }

  /** The machine's state, or the timeline after a place; notes what the page has then. */
  async #read(
    reader: StatusReader,
    page: Page,
    after: TimelineMark | undefined,
  ): Promise<MachineStatus | TimelineSlice> {
    page.hasLastStatus ??= false;
    const status = await reader.read();
    const slice = after && reader.timelineAfter(after);
    if (slice !== undefined) page.timeline = { version: slice.version, end: slice.end };
    const { version, end } = status.timeline;
    const hasTimeline = end === 0 || (page.timeline.version === version && page.timeline.end >= end);
    if (status.state === 'ended' && hasTimeline) page.hasLastStatus = true;
    return slice ?? status;
  }

  /** Carries out what a person asked for on the page. */
  async #control(
    name: string,
    request: IncomingMessage,
    answer: (status: number, text: string) => void,
  ): Promise<void> {
    const { 'sec-fetch-site': site, 'content-type': type } = request.headers;
    // A form of another site can send neither this type nor the token.
    if ((site !== undefined && site !== 'same-origin') || type !== 'application/json')
      return answer(403, 'not from another site');
    const control = Object.entries(this.#controls).find(([each]) => each === name)?.[1];
    if (control === undefined) return answer(404, 'the machine has no such control');
    try {
      await control(JSON.parse(await bodyOf(request)));
      answer(200, 'done');
    } catch (error) {
      answer(409, (error as Error).message);
    }
  }
}

/** @throws Error if it is too long */
async function bodyOf(request: IncomingMessage): Promise<string> {
  const pieces: Buffer[] = [];
  let bytes = 0;
  for await (const piece of request as AsyncIterable<Buffer>) {
    bytes += piece.length;
    if (bytes > MOST_BODY_BYTES) throw new Error(`a request has ${MOST_BODY_BYTES} bytes at most`);
    pieces.push(piece);
  }
  return Buffer.concat(pieces).toString();
}

/** 0 if it is not a number. */
const numberOf = (search: URLSearchParams, name: string): number =>
  Math.max(0, Math.trunc(Number(search.get(name))) || 0);

const isMachine = (watched: Watched): watched is Watched & StatusSource => watched.counters !== undefined;

/** Addresses, which are bigints, as the API gives them. */
const toJson = (value: unknown): string => JSON.stringify(value, plain);

const NEEDS_TOKEN = 'The address must have the token that tsvisor printed with it';

const digest = (text: string): Uint8Array => createHash('sha256').update(text).digest();

/** Takes the same time wherever the texts differ. */
const isSame = (one: string, other: string): boolean => timingSafeEqual(digest(one), digest(other));

const delay = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
