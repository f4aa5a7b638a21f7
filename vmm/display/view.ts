import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { fileURLToPath } from 'node:url';
import { fromNodeError, isErrno } from '../../sys/error.js';
import { Changes, MESSAGE, textMessage } from './changes.js';
import type { Look } from './screens.js';

/** What can be watched: a VirtualMachine, a DeviceServer. */
export interface Watched {
  /** Settles when there will be no further picture. */
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
  /** TCP port on 127.0.0.1; 0 for a free one. */
  readonly port: number;
  /** PCI slot of the display; the first one if absent. */
  readonly slot?: number | undefined;
}

const ADDRESS = '127.0.0.1';
const NAMES = [ADDRESS, 'localhost'];
/** Pages that are served at once: each has a copy of the picture here. */
const MOST_PAGES = 8;
const MOST_CONNECTIONS = 32;
/** A page that has not asked for so long is gone. */
const PAGE_LIVES_MS = 10_000;
/** How often a picture that stands still is looked at, and how long a page waits for its answer. */
const LOOK_EVERY_MS = 15;
const ANSWER_AFTER_MS = 1000;
/** How long pages have at the end to fetch the last picture. */
const FAREWELL_MS = 1000;

const ENDED = 'The guest has ended';
const NOTHING = 'The guest shows nothing now';

/** One open page. */
interface Page {
  readonly changes: Changes;
  /** The text it was last told instead of a picture. */
  told: string | undefined;
  hasLastWord: boolean;
  isServed: boolean;
  askedAt: number;
}

/**
 * A page on 127.0.0.1 that shows what a machine's display shows, as it changes. The page asks for each change, so that
 * one that is slow, hidden or paused costs nothing. Main thread only.
 */
export class View implements AsyncDisposable {
  /** Where it is: `http://127.0.0.1:8080/`. */
  readonly url: string;
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
    // Browsers leave out the port that http has anyhow.
    this.#hosts = NAMES.flatMap((name) => (port === 80 ? [name] : [`${name}:${port}`]));
    this.url = `http://${ADDRESS}:${port}/`;
    const end = () => {
      this.#isEnded = true;
    };
    watched.finished.then(end, end);
    server.on('request', (request, response) => {
      this.#answer(request, response).catch((error: Error) => response.destroy(error));
    });
  }

  /** @throws SysError EADDRINUSE, EACCES if the port cannot be had */
  static async start(watched: Watched, { port, slot }: ViewOptions): Promise<View> {
    const server = createServer();
    server.maxConnections = MOST_CONNECTIONS;
    server.listen(port, ADDRESS);
    try {
      await once(server, 'listening');
    } catch (error) {
      throw fromNodeError(error, 'listen', `${ADDRESS}:${port}`, 'choose another port, or 0 for a free one');
    }
    return new View(watched, slot, server, (server.address() as AddressInfo).port);
  }

  /** Lets open pages fetch the last picture if the machine has ended, and closes. */
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
    // By another name it would be another site's page, whose script may read what we answer: DNS rebinding.
    if (!this.#hosts.includes(request.headers.host ?? '')) return void refuse(403, 'not by that name');
    const site = request.headers['sec-fetch-site'];
    if (request.method !== 'GET') return void refuse(405, 'GET only');
    const { pathname, searchParams } = new URL(request.url ?? '/', this.url);
    if (pathname === '/') return void sendPage(response);
    if (pathname !== '/frame') return void refuse(404, 'there is nothing here');
    if (site !== undefined && site !== 'same-origin') return void refuse(403, 'not from another site');
    const client = searchParams.get('client') ?? '';
    if (!/^\w{8,64}$/.test(client)) return void refuse(400, 'which page is asking?');
    const page = this.#page(client);
    if (page === undefined) return void refuse(503, `${MOST_PAGES} pages are open already`);
    if (page.isServed) return void refuse(409, 'one question at a time');
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

  /** Waits for something that the page does not know yet, but not for ever. */
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

  /** What the page does not know yet, if there is anything. */
  async #news(page: Page): Promise<Uint8Array | undefined> {
    let text: string;
    try {
      const message = await this.#watched.look(this.#slot, (look) => page.changes.message(look));
      page.told = undefined;
      return message;
    } catch (error) {
      // Why there is no picture, in the words for a person.
      text = isErrno(error, 'ENODATA') ? NOTHING : (error as Error).message;
    }
    page.changes.forget();
    if (page.told === text) return undefined;
    page.told = text;
    return textMessage(MESSAGE.nothing, text);
  }
}

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

/** The page in the package, from the sources or from their compiled form. */
function pageText(): string {
  const beside = fileURLToPath(new URL('./view.html', import.meta.url));
  const inPackage = fileURLToPath(new URL('../../vmm/display/view.html', import.meta.url));
  return readFileSync(existsSync(beside) ? beside : inPackage, 'utf8');
}

const delay = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
