/** A viewer that speaks the protocol of the page of `--view`, without a browser. */
import { randomBytes } from 'node:crypto';
import { Agent, get } from 'node:http';
import type { FrameHead } from '../vmm/display/frame-head.js';
import type { ScreenPicture } from './l2-screens.js';
import type { Updated } from './rfb.js';

const keyOf = (slot: number, head = 0): string => `${slot}.${head}`;

/** What a view shows, message by message. */
export class FramesClient {
  readonly #url: string;
  readonly #agent = new Agent({ keepAlive: true });
  readonly #pictures = new Map<string, ScreenPicture>();
  #isStopped = false;

  /** @param url of the page, with its token */
  constructor(url: string) {
    this.#url = `${url}frame?client=${randomBytes(12).toString('hex')}`;
  }

  /**
   * Requests each change of the first display as soon as the last one is there, until the view ends. @throws Error if it ends by itself
   */
  async follow(updated: Updated): Promise<never> {
    while (!this.#isStopped) {
      const [first] = await this.next();
      if (first?.areas === undefined) continue;
      const { rgba, width } = this.picture(first.slot, first.head) as ScreenPicture;
      updated(rgba, 4 * width);
    }
    throw new Error('stopped');
  }

  /**
   * Requests what is new, which comes after a second at most; one request at a time.
   * @returns the displays that there are
   * @throws Error if the view has ended
   */
  async next(): Promise<FrameHead['displays']> {
    return this.#take(await this.#fetch());
  }

  /** A screen as the last message left it; undefined if it has had no picture. The next message changes its pixels. */
  picture(slot: number, head?: number): ScreenPicture | undefined {
    return this.#pictures.get(keyOf(slot, head));
  }

  /** Ends {@link follow}, and closes its connection. */
  stop(): void {
    this.#isStopped = true;
    this.#agent.destroy();
  }

  #fetch(): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      get(this.#url, { agent: this.#agent }, (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('error', reject);
        response.on('end', () => {
          if (response.statusCode === 200) resolve(Buffer.concat(chunks));
          else reject(new Error(`the view answers ${response.statusCode}`));
        });
      }).on('error', reject);
    });
  }

  #take(message: Buffer): FrameHead['displays'] {
    const bytes = message.readUInt32LE();
    const { ended, displays } = JSON.parse(message.toString('utf8', 4, 4 + bytes)) as FrameHead;
    if (ended !== undefined) throw new Error(`the view has ended: ${ended}`);
    let at = 4 + bytes;
    for (const { slot, head, width = 0, height = 0, areas = [] } of displays) {
      if (areas.length === 0) continue;
      const { rgba } = this.#sized(keyOf(slot, head), width, height);
      for (const [x, y, across, down] of areas)
        for (let row = 0; row < down; row++, at += 4 * across)
          rgba.set(message.subarray(at, at + 4 * across), 4 * ((y + row) * width + x));
    }
    return displays;
  }

  #sized(key: string, width: number, height: number): ScreenPicture {
    const had = this.#pictures.get(key);
    if (had?.width === width && had.height === height) return had;
    const picture = { width, height, rgba: Buffer.alloc(4 * width * height) };
    this.#pictures.set(key, picture);
    return picture;
  }
}
