import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { Fd } from '../../sys/fd.js';
import { Mapping } from '../../sys/mapping.js';
import type { GfxPlaneInfo } from '../../vfio/uapi.js';
import { decodeError, type ErrorData } from '../error-data.js';
import { drawCursor } from './cursor.js';
import type {
  DisplayMemory,
  DisplayName,
  PlaneCommand,
  ScreenCommand,
  ScreenEvent,
  ShownPlane,
  Still,
} from './messages.js';
import { planeBytes } from './pixels.js';

/** The current picture of a display. */
export interface Look {
  /** PCI slot of the display. */
  readonly slot: number;
  /** `00:03.0 vgpu-small` */
  readonly name: string;
  /** Size, format and layout of the picture. */
  readonly plane: GfxPlaneInfo;
  /** From the plane's first pixel. The guest may be writing it: read each element once, or copy it first. */
  readonly pixels: Uint8Array;
}

interface Request {
  readonly slot: number | undefined;
  readonly head: number | undefined;
  settle(find: () => ShownPlane): void;
}

/** A picture, and what tells whether the guest has shown another one since. */
interface Shot {
  readonly look: Look;
  readonly shown: ShownPlane;
}

/** How often a picture is copied here before the machine thread is asked to copy it, which costs the guest time. */
const COPIES_HERE = 2;

const isError = (answer: object): answer is ErrorData => 'message' in answer;

function isSameFrame(one: ShownPlane, other: ShownPlane): boolean {
  const { drmFormat, width, height, stride, offset, regionIndex } = one.plane;
  const { plane } = other;
  return (
    one.accesses === other.accesses &&
    plane.drmFormat === drmFormat &&
    plane.width === width &&
    plane.height === height &&
    plane.stride === stride &&
    plane.offset === offset &&
    plane.regionIndex === regionIndex
  );
}

/** Whether two looks are of one picture, as the device says. */
const isDrawnOnce = (one: Look, other: Look): boolean =>
  one.plane.drawn !== undefined &&
  one.plane.drawn === other.plane.drawn &&
  one.name === other.name &&
  one.slot === other.slot;

function found(answer: ShownPlane | ErrorData): ShownPlane {
  if (isError(answer)) throw decodeError(answer);
  return answer;
}

/**
 * The displays of one machine, for the main thread, which maps their video memory itself: reading a picture costs the
 * guest nothing but a register read. Main thread only.
 */
export class Screens {
  readonly #send: (command: ScreenCommand) => boolean;
  readonly #memories = new Map<number, Mapping>();
  readonly #requests = new Map<number, Request>();
  readonly #lists = new Map<number, (displays: readonly DisplayName[]) => void>();
  #stills: readonly Still[] = [];
  #lastId = 0;

  /** @param send returns false if the machine thread has ended */
  constructor(send: (command: ScreenCommand) => boolean) {
    this.#send = send;
  }

  /**
   * Reads what a device shows now, or showed last if the machine has ended.
   * @param slot undefined is the first display
   * @param use receives the picture, which is valid until it returns
   * @throws SysError ENODEV without such a display; ENODATA while it shows nothing; EINVAL for an unsupported picture
   */
  look<T>(slot: number | undefined, use: (look: Look) => T, head?: number): Promise<T> {
    return this.#ask({ slot, head }, ({ look }) => use(look));
  }

  /**
   * Copies what a device shows now, or showed last if the machine has ended. The copy is never of two frames: a guest that
   * draws one frame while it shows another changes the plane through a register that traps, so a copy is of one frame if
   * the device was not accessed meanwhile. If it was, twice, the machine thread copies, between two accesses. A guest that
   * draws into what it shows has no frames, and can be captured while it draws.
   * A cursor is drawn into it.
   * @param slot undefined is the first display
   * @param into memory for the pixels, used if it has their size
   * @param head which screen of that display; the first if absent
   * @param since an earlier result, with its pixels as they were: returned itself if the device says that it has drawn nothing since
   * @throws SysError as {@link look}
   */
  async capture(slot: number | undefined, into?: Uint8Array, head?: number, since?: Look): Promise<Look> {
    const { look, shown } = await this.#capture(slot, into, head, since);
    if (look === since) return look;
    if (shown.cursor !== undefined) drawCursor(look, shown.cursor);
    return look;
  }

  async #capture(
    slot: number | undefined,
    into: Uint8Array | undefined,
    head: number | undefined,
    since: Look | undefined,
  ): Promise<Shot> {
    const copy = ({ look, shown }: Shot): Shot => {
      if (since !== undefined && isDrawnOnce(since, look)) return { look: since, shown };
      const pixels = into?.length === look.pixels.length ? into : new Uint8Array(look.pixels.length);
      pixels.set(look.pixels);
      return { look: { ...look, pixels }, shown };
    };
    for (let i = 0; i < COPIES_HERE; i++) {
      const shot = await this.#ask({ slot, head }, copy);
      const { shown } = shot;
      if (shown.pixels !== undefined || shot.look === since) return shot;
      if (shown.accesses === undefined) break;
      if (isSameFrame(shown, await this.#ask({ slot: shown.slot, head }, (after) => after.shown)))
        return shot;
    }
    return this.#ask({ slot, head, isCopied: true }, copy);
  }

  /** The machine's displays, in slot order; after its end, those that it had. */
  displays(): Promise<readonly DisplayName[]> {
    return new Promise((resolve) => {
      const id = ++this.#lastId;
      if (this.#send({ kind: 'displays', id })) this.#lists.set(id, resolve);
      else resolve(this.#stillDisplays());
    });
  }

  #ask<T>(request: Pick<PlaneCommand, 'slot' | 'head' | 'isCopied'>, use: (shot: Shot) => T): Promise<T> {
    return new Promise((resolve, reject) => {
      const settle = (find: () => ShownPlane): void => {
        try {
          const shown = find();
          resolve(use({ look: this.#picture(shown), shown }));
        } catch (error) {
          reject(error);
        }
      };
      const id = ++this.#lastId;
      const { slot, head } = request;
      if (this.#send({ kind: 'plane', id, ...request })) this.#requests.set(id, { slot, head, settle });
      else settle(() => this.#still(slot, head));
    });
  }

  hear(event: ScreenEvent): void {
    if (event.kind === 'stills') {
      this.#stills = event.stills;
      return;
    }
    if (event.kind === 'displays') {
      this.#lists.get(event.id)?.(event.displays);
      this.#lists.delete(event.id);
      return;
    }
    const { answer } = event;
    if (!isError(answer) && answer.memory !== undefined) this.#map(answer, answer.memory);
    const request = this.#requests.get(event.id);
    this.#requests.delete(event.id);
    request?.settle(() => found(answer));
  }

  /** The devices that are left: unmaps the video memory of all others. */
  keep(devices: readonly { readonly slot?: number | undefined }[]): void {
    const left = new Set(devices.map(({ slot }) => slot));
    for (const [slot, memory] of [...this.#memories]) {
      if (left.has(slot)) continue;
      this.#memories.delete(slot);
      memory[Symbol.dispose]();
    }
  }

  /**
   * The machine has ended: settles pending requests with the last picture, or the failure, and unmaps all video memory.
   */
  end(failure: Error | undefined): void {
    for (const resolve of this.#lists.values()) resolve(this.#stillDisplays());
    this.#lists.clear();
    const requests = [...this.#requests.values()];
    this.#requests.clear();
    for (const { slot, head, settle } of requests) {
      settle(() => {
        if (failure !== undefined) throw failure;
        return this.#still(slot, head);
      });
    }
    const memories = [...this.#memories.values()];
    this.#memories.clear();
    for (const memory of memories) memory[Symbol.dispose]();
  }

  #map({ slot, name }: ShownPlane, { fd: number, offset, bytes }: DisplayMemory): void {
    using fd = Fd.adopt(number, `video memory of ${name}`);
    const memory = Mapping.file(fd, bytes, { offset, isWritable: false });
    this.#memories.get(slot)?.[Symbol.dispose](); // the device was reopened
    this.#memories.set(slot, memory);
  }

  #stillDisplays(): readonly DisplayName[] {
    return this.#stills.map(({ answer: _, ...name }) => name);
  }

  #still(slot: number | undefined, head = 0): ShownPlane {
    const of = slot ?? this.#stills[0]?.slot;
    const still = this.#stills.find((each) => each.slot === of && (each.head ?? 0) === head);
    if (still !== undefined) return found(still.answer);
    const target = slot === undefined ? 'the machine' : `PCI slot ${slot}`;
    const hint = 'the machine has ended, and no device of it showed a picture there';
    throw new SysError({ call: 'VFIO_DEVICE_QUERY_GFX_PLANE', target, errno: errno.ENODEV, hint });
  }

  #picture({ slot, name, plane, pixels }: ShownPlane): Look {
    if (pixels !== undefined) {
      planeBytes({ ...plane, offset: 0 }, pixels.length, name);
      return { slot, name, plane, pixels };
    }
    const memory = this.#memories.get(slot);
    if (memory === undefined) throw new Error(`${name}: its video memory is not mapped`);
    const bytes = planeBytes(plane, memory.bytes, name);
    return { slot, name, plane, pixels: memory.view.slice(plane.offset, bytes) };
  }
}
