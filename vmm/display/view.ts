import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { fileURLToPath } from 'node:url';
import { fromNodeError, isErrno } from '../../sys/error.js';
import { Changes, MESSAGE, textMessage } from './changes.js';
import type { Look } from './screens.js';

/** What a view can show: a VirtualMachine or a DeviceServer. */
export interface Watched {
  /** Settles when no further picture follows. */
  readonly finished: Promise<unknown>;
  /**
   * Passes the current picture to `use`, and resolves to its result.
   * @param slot PCI slot of the display; the first one if undefined
   * @throws SysError ENODEV without such a display; ENODATA while it shows nothing
   */
  look<T>(slot: number | undefined, use: (look: Look) => T): Promise<T>;
}

/** Where the page is served, and which display it shows. */
export interface ViewOptions {
  /** TCP port on 127.0.0.1; 0 selects a free one. */
  readonly port: number;
  /** PCI slot of the display; the first one if absent. */
  readonly slot?: number | undefined;
}

/** Random bytes of a page's token: no other user of this machine guesses it. */
const TOKEN_BYTES = 24;
const ADDRESS = '127.0.0.1';
const NAMES = [ADDRESS, 'localhost'];
/** Maximum pages served at once: each keeps a copy of the picture here. */
const MOST_PAGES = 8;
const MOST_CONNECTIONS = 32;
/** How long a connection may take to send a request, and may stay open without one: anybody here can connect. */
const REQUEST_MS = 5000;
/** A page that has not sent a request for this long is considered closed. */
const PAGE_LIVES_MS = 10_000;
/** How often an unchanged picture is checked, and how long a request waits for a change. */
const LOOK_EVERY_MS = 15;
const ANSWER_AFTER_MS = 1000;
/** How long pages have at the end to fetch the last picture. */
const FAREWELL_MS = 1000;

const ENDED = 'The guest has ended';
const NOTHING = 'The guest shows nothing now';

/** One open page. */
interface Page {
  readonly changes: Changes;
  /** The last text sent instead of a picture. */
  told: string | undefined;
  hasLastWord: boolean;
  isServed: boolean;
  askedAt: number;
}

/**
 * A page on 127.0.0.1 that shows a machine's display live. The page requests each change, so a slow, hidden or paused
 * page costs nothing. Other users of this machine can connect, too: nothing is served without the token in the URL. Main
 * thread only.
 */
export class View implements AsyncDisposable {
  /** Its URL with the token: `http://127.0.0.1:8080/Zk3…/`. Whoever has it can use the page. */
  readonly url: string;
  readonly #token = randomBytes(TOKEN_BYTES).toString('base64url');
  readonly #watched: Watched;
  readonly #slot: number | undefined;
  readonly #server: Server;
  readonly #hosts: readonly string[];
  readonly #pages = new Map<string, Page>();
  #isEnded = false;

  private constructor(watched: Watched, slot: number | undefined, server: Server, port: number) {
    this.#watched = watched;
    this.#slot = slot;
    this.#server = server;
    // Browsers omit http's default port.
    this.#hosts = NAMES.flatMap((name) => (port === 80 ? [name] : [`${name}:${port}`]));
    this.url = `http://${ADDRESS}:${port}/${this.#token}/`;
    const end = () => {
      this.#isEnded = true;
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
    const isWaiting = (page: Page) => !page.hasLastWord && Date.now() - page.askedAt < 2 * ANSWER_AFTER_MS;
    const deadline = Date.now() + (this.#isEnded ? FAREWELL_MS : 0);
    while (Date.now() < deadline && [...this.#pages.values()].some(isWaiting)) await delay(LOOK_EVERY_MS);
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
    if (request.method !== 'GET') return void refuse(405, 'GET only');
    const searchParams = new URLSearchParams(query);
    if (path === '') return void sendPage(response);
    if (path !== 'frame') return void refuse(404, 'not found');
    if (site !== undefined && site !== 'same-origin') return void refuse(403, 'not from another site');
    const client = searchParams.get('client') ?? '';
    if (!/^\w{8,64}$/.test(client)) return void refuse(400, 'missing page id');
    const page = this.#page(client);
    if (page === undefined) return void refuse(503, `${MOST_PAGES} pages are open already`);
    if (page.isServed) return void refuse(409, 'one request at a time');
    page.isServed = true;
    try {
      const message = await this.#message(page, response);
      const type = { 'Content-Type': 'application/octet-stream', 'Content-Length': message.length };
      response.writeHead(200, { ...HEADERS, ...type }).end(message);
    } finally {
      page.isServed = false;
      page.askedAt = Date.now();
    }
  }

  #page(client: string): Page | undefined {
    const now = Date.now();
    for (const [name, { askedAt, isServed }] of this.#pages)
      if (!isServed && now - askedAt > PAGE_LIVES_MS) this.#pages.delete(name);
    const known = this.#pages.get(client);
    if (known !== undefined) return known;
    if (this.#pages.size >= MOST_PAGES) return undefined;
    const page: Page = {
      changes: new Changes(),
      told: undefined,
      hasLastWord: false,
      isServed: false,
      askedAt: now,
    };
    this.#pages.set(client, page);
    return page;
  }

  /** Waits up to a limit for something new for the page. */
  async #message(page: Page, response: ServerResponse): Promise<Uint8Array> {
    const deadline = Date.now() + ANSWER_AFTER_MS;
    for (;;) {
      const wasEnded = this.#isEnded;
      const message = await this.#news(page);
      if (message !== undefined) return message;
      if (wasEnded) {
        page.hasLastWord = true;
        return textMessage(MESSAGE.ended, ENDED);
      }
      if (Date.now() >= deadline || response.destroyed) return textMessage(MESSAGE.unchanged);
      await delay(LOOK_EVERY_MS);
    }
  }

  /** What is new for the page, if anything. */
  async #news(page: Page): Promise<Uint8Array | undefined> {
    let text: string;
    try {
      const message = await this.#watched.look(this.#slot, (look) => page.changes.message(look));
      page.told = undefined;
      return message;
    } catch (error) {
      // Explain why there is no picture.
      text = isErrno(error, 'ENODATA') ? NOTHING : (error as Error).message;
    }
    page.changes.forget();
    if (page.told === text) return undefined;
    page.told = text;
    return textMessage(MESSAGE.nothing, text);
  }
}

const NEEDS_TOKEN = 'The address must have the token that tsvisor printed with it';

const digest = (text: string): Uint8Array => createHash('sha256').update(text).digest();

/** Takes the same time wherever the texts differ. */
const isSame = (one: string, other: string): boolean => timingSafeEqual(digest(one), digest(other));

const HEADERS = {
  'Cache-Control': 'no-store',
  'X-Content-Type-Options': 'nosniff',
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Referrer-Policy': 'no-referrer',
};

function sendPage(response: ServerResponse): void {
  const nonce = randomBytes(16).toString('base64');
  const own = `'nonce-${nonce}'`;
  const policy =
    `default-src 'none'; script-src ${own}; style-src ${own}; connect-src 'self'; img-src data:; ` +
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
  const type = { 'Content-Type': 'text/html; charset=utf-8', 'Content-Security-Policy': policy };
  response.writeHead(200, { ...HEADERS, ...type }).end(pageText().replaceAll('NONCE', nonce));
}

/** The page's source, next to this module or in the package. */
function pageText(): string {
  const beside = fileURLToPath(new URL('./view.html', import.meta.url));
  const inPackage = fileURLToPath(new URL('../../vmm/display/view.html', import.meta.url));
  return readFileSync(existsSync(beside) ? beside : inPackage, 'utf8');
}

const delay = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
