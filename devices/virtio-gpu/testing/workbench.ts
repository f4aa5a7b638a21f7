import { DATA, TurnBench } from '../../virtio/testing/turn-bench.js';
import type { ChainBuffer, GuestMemory } from '../../virtio-net/testing/guest.js';
import { maps } from '../../virtio-net/testing/guest.js';
import type { VirtioGpuDevice } from '../device.js';
import { createVirtioGpuDriver, type VirtioGpuInstance } from '../driver.js';

export const [CONTROLQ, CURSORQ] = [0, 1] as const;
export const COMMAND = {
  displayInfo: 0x100,
  create: 0x101,
  unref: 0x102,
  setScanout: 0x103,
  flush: 0x104,
  transfer: 0x105,
  attach: 0x106,
  detach: 0x107,
  edid: 0x10a,
  updateCursor: 0x300,
  moveCursor: 0x301,
} as const;
export const RESPONSE = {
  ok: 0x1100,
  displayInfo: 0x1101,
  edid: 0x1104,
  unspec: 0x1200,
  outOfMemory: 0x1201,
  scanout: 0x1202,
  resource: 0x1203,
  parameter: 0x1205,
} as const;
const HEADER = 24;
const SLOT_BYTES = 0x1000;
const SLOTS = 16;
/** Behind the commands and responses, where pictures can be. */
export const PICTURES: number = DATA + 2 * SLOTS * SLOT_BYTES;
export const PICTURE_BYTES: number = maps.main.iova + maps.main.bytes - PICTURES;
/** Memory for all planes. */
const REGION_TYPE = 4;

export interface Fence {
  readonly id: bigint;
  readonly ctx: number;
}

/** What a response says. */
export interface Answer {
  readonly type: number;
  readonly flags: number;
  readonly fence: bigint;
  readonly ctx: number;
  /** What follows the header. */
  readonly data: DataView;
  /** Bytes that the device has written. */
  readonly length: number;
}

/** Words of 32 bits as bytes. */
export const words = (...values: readonly number[]): Uint8Array =>
  new Uint8Array(Uint32Array.from(values).buffer);

/** A card in the hands of a test. */
export class GpuBench extends TurnBench<VirtioGpuInstance> {
  #slot = 0;

  constructor(options: Readonly<Record<string, string>> = {}, memory?: GuestMemory) {
    super(2, createVirtioGpuDriver, options, memory);
  }

  get ops(): VirtioGpuDevice {
    return this.instance.ops as VirtioGpuDevice;
  }

  /** Places for a command and its response. */
  place(command: Uint8Array, room = 2048): { readonly command: ChainBuffer; readonly response: ChainBuffer } {
    const slot = this.#slot++ % SLOTS;
    const at = DATA + 2 * slot * SLOT_BYTES;
    this.memory.bytes.set(command, this.memory.at(at));
    this.memory.bytes.fill(0xee, this.memory.at(at + SLOT_BYTES), this.memory.at(at + SLOT_BYTES) + room);
    return {
      command: { address: at, length: command.length },
      response: { address: at + SLOT_BYTES, length: room, isDeviceWritable: true },
    };
  }

  /** Sends a command, and returns its response. */
  send(
    queue: number,
    type: number,
    body: Uint8Array = new Uint8Array(),
    fence?: Fence,
    room: number = 2048,
  ): Answer {
    const header = new Uint8Array(HEADER);
    const view = new DataView(header.buffer);
    view.setUint32(0, type, true);
    view.setUint32(4, fence === undefined ? 0 : 1, true);
    view.setBigUint64(8, fence?.id ?? 0n, true);
    view.setUint32(16, fence?.ctx ?? 0, true);
    const { command, response } = this.place(Buffer.concat([header, body]), room);
    this.queues[queue]!.add([command, response]);
    this.ring(queue);
    const [used] = this.queues[queue]!.reap();
    const at = this.memory.at(response.address);
    const answer = new DataView(this.memory.bytes.slice(at, at + Math.max(room, HEADER)).buffer);
    return {
      type: answer.getUint32(0, true),
      flags: answer.getUint32(4, true),
      fence: answer.getBigUint64(8, true),
      ctx: answer.getUint32(16, true),
      data: new DataView(answer.buffer, HEADER),
      length: used?.length ?? -1,
    };
  }

  /** As {@link send} to the control queue, of words. Returns the response's type. */
  control(type: number, ...body: readonly number[]): number {
    return this.send(CONTROLQ, type, words(...body)).type;
  }

  cursor(type: number, ...body: readonly number[]): number {
    return this.send(CURSORQ, type, words(...body)).type;
  }

  create(id: number, width: number, height: number, format = 2): number {
    return this.control(COMMAND.create, id, format, width, height);
  }

  /** @param pieces address and length of each */
  attach(id: number, pieces: readonly (readonly [number, number])[]): number {
    const entries = pieces.flatMap(([at, bytes]) => [at >>> 0, Math.floor(at / 2 ** 32), bytes, 0]);
    return this.control(COMMAND.attach, id, pieces.length, ...entries);
  }

  /** A resource with a backing of one piece, whose pixels follow from their place and the seed. */
  picture(id: number, width: number, height: number, seed: number, at: number = PICTURES): void {
    this.create(id, width, height);
    this.attach(id, [[at, 4 * width * height]]);
    this.draw(width, height, seed, at);
  }

  draw(width: number, height: number, seed: number, at: number = PICTURES): void {
    for (let i = 0; i < width * height; i++)
      this.memory.words.setUint32(this.memory.at(at) + 4 * i, pixelAt(i, seed), true);
  }

  transfer(id: number, x: number, y: number, width: number, height: number, offset: number): number {
    return this.control(COMMAND.transfer, x, y, width, height, offset, 0, id, 0);
  }

  setScanout(head: number, id: number, x: number, y: number, width: number, height: number): number {
    return this.control(COMMAND.setScanout, x, y, width, height, head, id);
  }

  /** What a head shows as words, without what is between its lines; undefined for nothing. */
  shown(head = 0, drmPlaneType = 1): Uint32Array | undefined {
    const plane = this.ops.queryGfxPlane({ flags: REGION_TYPE, drmPlaneType, head });
    if (plane.drmFormat === 0) return undefined;
    const out = new Uint8Array(4 * plane.width * plane.height);
    for (let y = 0; y < plane.height; y++)
      this.ops.read(
        plane.regionIndex,
        plane.offset + y * plane.stride,
        out.subarray(4 * plane.width * y, 4 * plane.width * (y + 1)),
      );
    return new Uint32Array(out.buffer);
  }
}

export const pixelAt = (i: number, seed: number): number =>
  (Math.imul(i + 1, 0x9e37_79b1) ^ Math.imul(seed, 0x85eb_ca6b)) >>> 0;

/** What a picture of {@link GpuBench.draw} has in it. */
export const pixels = (count: number, seed: number): Uint32Array =>
  Uint32Array.from({ length: count }, (_, i) => pixelAt(i, seed));
