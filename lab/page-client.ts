/** A person at the page of a machine, without a browser: the page's protocol and nothing else. */
import { Agent, request } from 'node:http';
import type { InputEvent } from '../vfio/driver.js';
import type { ScreenSize } from '../vmm/display/screen-size.js';
import { AXIS, BTN_LEFT, type Person } from './l2-desktop.js';
import type { ScreenPicture } from './l2-screens.js';
import { FramesClient } from './view-frames.js';

const [EV_KEY, EV_ABS, ABS_X, ABS_Y] = [1, 3, 0, 1] as const;

/** What the page reads of a device. */
interface Device {
  readonly slot: number;
  readonly input?: string;
}

/** Sees what a page sees, and sends what it sends. Disposal closes its connections. */
export class PageClient implements Disposable {
  readonly #url: string;
  readonly #agent = new Agent({ keepAlive: true });
  readonly #frames: FramesClient;

  /** @param url of the page, with its token */
  constructor(url: string) {
    this.#url = url;
    this.#frames = new FramesClient(url);
  }

  /** A screen as the next message leaves it. @throws Error if it has had no picture */
  async look(slot: number, head: number): Promise<ScreenPicture> {
    await this.#frames.next();
    const picture = this.#frames.picture(slot, head);
    if (picture === undefined) throw new Error(`the page has no picture of screen ${head} in slot ${slot}`);
    return picture;
  }

  /** Gives a screen another size. @throws Error with the refusal */
  async resize(slot: number, head: number, size: ScreenSize): Promise<void> {
    await this.#call('PUT', `devices/${slot}/size`, { ...size, head });
  }

  /** At the machine's keyboard and tablet. @throws Error if it has none */
  async person(): Promise<Person> {
    const devices = JSON.parse(await this.#call('GET', 'devices')) as readonly Device[];
    const slotOf = (kind: string): number => {
      const found = devices.find(({ input }) => input === kind);
      if (found === undefined) throw new Error(`the machine has no ${kind}`);
      return found.slot;
    };
    const [keyboard, tablet] = [slotOf('keyboard'), slotOf('tablet')];
    const send = async (slot: number, ...events: readonly InputEvent[]): Promise<void> => {
      await this.#call('PUT', `devices/${slot}/input`, { events });
    };
    const key = (slot: number, code: number, value: number) => send(slot, { type: EV_KEY, code, value });
    const axis = (code: number, part: number) => ({ type: EV_ABS, code, value: Math.round(part * AXIS) });
    return {
      async press({ codes }) {
        for (const code of codes) await key(keyboard, code, 1);
        for (const code of codes.toReversed()) await key(keyboard, code, 0);
      },
      point: (x, y) => send(tablet, axis(ABS_X, x), axis(ABS_Y, y)),
      async click() {
        await key(tablet, BTN_LEFT, 1);
        await key(tablet, BTN_LEFT, 0);
      },
    };
  }

  #call(method: 'GET' | 'PUT', path: string, body?: object): Promise<string> {
    const headers = body === undefined ? {} : { 'Content-Type': 'application/json' };
    return new Promise((resolve, reject) => {
      const sent = request(`${this.#url}v1/${path}`, { method, headers, agent: this.#agent }, (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('error', reject);
        response.on('end', () => {
          const text = Buffer.concat(chunks).toString();
          if ((response.statusCode ?? 0) < 300) resolve(text);
          else reject(new Error(`${method} ${path}: ${response.statusCode} ${text}`));
        });
      });
      sent.on('error', reject);
      sent.end(body === undefined ? undefined : JSON.stringify(body));
    });
  }

  [Symbol.dispose](): void {
    this.#frames.stop();
    this.#agent.destroy();
  }
}
