import type { Backing } from './backing.js';
import { FORMATS, type PixelFormat } from './formats.js';
import type { PixelPool } from './pixel-pool.js';
import {
  MOST_BACKING_ENTRIES_IN_ALL,
  MOST_RESOURCES,
  PIXEL_BYTES,
  VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER,
  VIRTIO_GPU_RESP_ERR_INVALID_RESOURCE_ID,
  VIRTIO_GPU_RESP_ERR_OUT_OF_MEMORY,
  VIRTIO_GPU_RESP_ERR_UNSPEC,
  VIRTIO_GPU_RESP_OK_NODATA,
} from './spec.js';

/** A rectangle, pixels. */
export interface Rect {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}

/** A picture of the guest's in the host's memory. */
export interface Resource {
  readonly id: number;
  /** VIRTIO_GPU_FORMAT_. */
  readonly format: number;
  readonly pixels: PixelFormat;
  readonly width: number;
  readonly height: number;
  /** Bytes from one line to the next. */
  readonly stride: number;
  readonly bytes: number;
  /** Where it is in the pool, which its whole picture fits. */
  readonly at: number;
  /** The guest's memory behind it; absent until the driver attaches some. */
  backing: Backing | undefined;
}

/** Whether a rectangle has pixels, and all of them are in a picture. Its numbers are of 32 bits: their sums are exact. */
export const isWithin = ({ x, y, width, height }: Rect, of: Pick<Resource, 'width' | 'height'>): boolean =>
  width > 0 && height > 0 && x + width <= of.width && y + height <= of.height;

/** The resources of a device, within its pool: no command of a guest takes memory beyond that, and the tables of their backings. */
export class Resources {
  readonly #pool: PixelPool;
  readonly #byId = new Map<number, Resource>();
  #backingPieces = 0;

  constructor(pool: PixelPool) {
    this.#pool = pool;
  }

  get(id: number): Resource | undefined {
    return this.#byId.get(id);
  }

  /** In the order of their creation. */
  get all(): IterableIterator<Resource> {
    return this.#byId.values();
  }

  get count(): number {
    return this.#byId.size;
  }

  /** Returns the response. */
  create(id: number, format: number, width: number, height: number): number {
    if (id === 0 || this.#byId.has(id)) return VIRTIO_GPU_RESP_ERR_INVALID_RESOURCE_ID;
    const pixels = FORMATS.get(format);
    if (pixels === undefined || width === 0 || height === 0) return VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER;
    // Not exact above 2^53, where no pool is.
    const bytes = width * height * PIXEL_BYTES;
    if (this.#byId.size === MOST_RESOURCES) return VIRTIO_GPU_RESP_ERR_OUT_OF_MEMORY;
    const at = this.#pool.allocate(bytes);
    if (at === undefined) return VIRTIO_GPU_RESP_ERR_OUT_OF_MEMORY;
    const stride = width * PIXEL_BYTES;
    this.#byId.set(id, { id, format, pixels, width, height, stride, bytes, at, backing: undefined });
    return VIRTIO_GPU_RESP_OK_NODATA;
  }

  /** Returns the resource that is no more. */
  remove(id: number): Resource | undefined {
    const resource = this.#byId.get(id);
    if (resource === undefined) return undefined;
    this.detach(resource);
    this.#byId.delete(id);
    this.#pool.release(resource.at, resource.bytes);
    return resource;
  }

  /** Returns the response. */
  attach(resource: Resource, backing: Backing | undefined): number {
    if (backing === undefined) return VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER;
    if (resource.backing !== undefined) return VIRTIO_GPU_RESP_ERR_UNSPEC;
    if (this.#backingPieces + backing.pieces > MOST_BACKING_ENTRIES_IN_ALL)
      return VIRTIO_GPU_RESP_ERR_OUT_OF_MEMORY;
    this.#backingPieces += backing.pieces;
    resource.backing = backing;
    return VIRTIO_GPU_RESP_OK_NODATA;
  }

  detach(resource: Resource): void {
    this.#backingPieces -= resource.backing?.pieces ?? 0;
    resource.backing = undefined;
  }

  /** The bytes of a resource from `offset` on. */
  bytesOf({ at, bytes }: Resource, offset: number, length: number): Uint8Array {
    if (offset + length > bytes) throw new RangeError(`${length} bytes at ${offset} of ${bytes}`);
    return this.#pool.bytes.subarray(at + offset, at + offset + length);
  }

  clear(): void {
    for (const id of [...this.#byId.keys()]) this.remove(id);
  }
}
