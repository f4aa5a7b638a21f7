import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { fromNodeError } from '../../sys/error.js';
import { ApiDispatcher } from '../api/dispatcher.js';
import { type ControlledMachine, createRoutes } from '../api/routes.js';
import { type ServedControls, servedDevices, servedRoutes } from '../api/served-routes.js';
import { version } from '../version.js';
import { Frames, LOOK_EVERY_MS, type PictureSource } from './frames.js';
import { lastingReadings } from './lasting-readings.js';
import { HEADERS, pageFile } from './page-files.js';
import { MOST_PAGES, type Page, Pages } from './pages.js';

/** What a view can show: a VirtualMachine, or a DeviceServer, of which it shows the pictures, and sends keyboard and pointer. */
export type Watched = PictureSource & {
  /** Settles when no further picture follows. */
  readonly finished: Promise<unknown>;
};

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
/** How long a connection may take to send a request, and may stay open without one: anybody here can connect. */
const REQUEST_MS = 15_000;
/** How long pages have at the end to fetch the last picture. */
const FAREWELL_MS = 5000;

/**
 * A page on 127.0.0.1 that shows a machine's displays live, and the machine by its API, which is served below the page. The
 * page requests each change, so a slow, hidden or paused page costs nothing. Other users of this machine can connect, too: nothing is served without the token in the URL. Main
 * thread only.
 */
export class View implements AsyncDisposable {
  /** Its URL with the token: `http://127.0.0.1:8080/Zk3…/`. Whoever has it can use the page. */
  readonly url: string;
  readonly #token = randomBytes(TOKEN_BYTES).toString('base64url');
  readonly #server: Server;
  readonly #hosts: readonly string[];
  readonly #pages: Pages;
  /** Of a machine, or of served devices. */
  readonly #api: Pick<ApiDispatcher<never>, 'serve'> | undefined;

  private constructor(watched: Watched, slot: number | undefined, server: Server, port: number) {
    this.#server = server;
    this.#pages = new Pages(new Frames(watched, slot));
    if (isMachine(watched))
      this.#api = new ApiDispatcher(
        lastingReadings(watched),
        createRoutes({ version: version(), by: 'the page' }),
        version(),
      );
    else if (isServer(watched))
      this.#api = new ApiDispatcher(servedDevices(watched), servedRoutes, version());
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

  /** If the machine has ended, waits briefly for open pages to fetch what was last; then closes. */
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
    const file = request.method === 'GET' ? pageFile(path ?? '') : undefined;
    if (file !== undefined) return void response.writeHead(200, file.headers).end(file.body);
    const { 'sec-fetch-site': site, 'content-type': type } = request.headers;
    // A form of another site can send neither the token nor this type.
    if (
      (site !== undefined && site !== 'same-origin') ||
      (request.method === 'POST' && type !== 'application/json')
    )
      return void refuse(403, 'not from another site');
    // What the page asks first: whether there is a machine, and then whether anything takes events.
    if (this.#api === undefined && (path === 'v1/info' || path === 'v1/inputs'))
      return void response.writeHead(204, HEADERS).end();
    if (path?.startsWith('v1/') && this.#api !== undefined) {
      for (const [name, value] of Object.entries(HEADERS)) response.setHeader(name, value);
      return this.#api.serve(request, response, `/${path}${query === undefined ? '' : `?${query}`}`);
    }
    if (request.method !== 'GET') return void refuse(405, 'GET only');
    if (path !== 'frame' && path !== 'done') return void refuse(404, 'not found');
    const client = new URLSearchParams(query).get('client') ?? '';
    if (!/^\w{8,64}$/.test(client)) return void refuse(400, 'missing page id');
    const page = this.#pages.find(client);
    if (page === undefined) return void refuse(503, `${MOST_PAGES} pages are open already`);
    if (path === 'done') {
      page.isDone = true;
      return void response.writeHead(204, HEADERS).end();
    }
    if (page.isServed) return void refuse(409, 'one request at a time');
    await this.#sendFrame(page, response);
  }

  async #sendFrame(page: Page, response: ServerResponse): Promise<void> {
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
}

const isMachine = (watched: Watched): watched is Watched & ControlledMachine => 'inspectDevices' in watched;

const isServer = (watched: Watched): watched is Watched & ServedControls => 'inputs' in watched;

const NEEDS_TOKEN = 'The address must have the token that tsvisor printed with it';

const digest = (text: string): Uint8Array => createHash('sha256').update(text).digest();

/** Takes the same time wherever the texts differ. */
const isSame = (one: string, other: string): boolean => timingSafeEqual(digest(one), digest(other));

const delay = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
