/** A viewer that speaks the protocol of the page of `--view`, without a browser. */
import { randomBytes } from 'node:crypto';
import { Agent, get } from 'node:http';
import type { FrameHead } from '../vmm/display/frame-head.js';
import type { Updated } from './rfb.js';

/** Follows the first display of a view. */
export class FramesClient {
  readonly #url: string;
  readonly #agent = new Agent({ keepAlive: true });
  #isStopped = false;
  #size = '';
  #pixels = Buffer.alloc(0);

  /** @param url of the page, with its token */
  constructor(url: string) {
    this.#url = `${url}frame?client=${randomBytes(12).toString('hex')}`;
  }

  /** Requests each change as soon as the last one is there, until the view ends. @throws Error if it ends by itself */
  async follow(updated: Updated): Promise<never> {
    while (!this.#isStopped) {
      const width = this.#take(await this.#fetch());
      if (width > 0) updated(this.#pixels, 4 * width);
    }
    throw new Error('stopped');
  }

  /** Ends {@link follow}. */
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

  /** Returns the width of the first display if it has changed, or 0. */
  #take(message: Buffer): number {
    const bytes = message.readUInt32LE();
    const head = JSON.parse(message.toString('utf8', 4, 4 + bytes)) as FrameHead;
    if (head.ended !== undefined) throw new Error(`the view has ended: ${head.ended}`);
    const { width = 0, height = 0, areas } = head.displays[0] ?? {};
    if (areas === undefined) return 0;
    const size = `${width} x ${height}`;
    if (this.#size !== size) [this.#size, this.#pixels] = [size, Buffer.alloc(4 * width * height)];
    let at = 4 + bytes;
    for (const [x, y, across, down] of areas)
      for (let row = 0; row < down; row++, at += 4 * across)
        message.copy(this.#pixels, 4 * ((y + row) * width + x), at, at + 4 * across);
    return width;
  }
}
