/** A client's memory, for its device: mapped if the client shares it safely, else accessed by message. */
import { iova } from '../../../sys/address.js';
import { errno } from '../../../sys/errno.js';
import { SysError } from '../../../sys/error.js';
import type { Fd } from '../../../sys/fd.js';
import { Scope } from '../../../sys/scope.js';
import { type DmaRange, holds } from '../../dma-range.js';
import {
  type ContainerFile,
  type RemoteMemory,
  VFIO_DMA_MAP_FLAG_READ,
  VFIO_DMA_MAP_FLAG_WRITE,
  VFIO_DMA_UNMAP_FLAG_ALL,
  VFIO_UNMAP_ALL,
} from '../../uapi.js';
import { invalid, Reader, Writer } from '../message.js';
import {
  DEFAULT_MAX_DMA_MAPS,
  VFIO_USER_DMA_MAP,
  VFIO_USER_DMA_UNMAP,
  VFIO_USER_F_DMA_REGION_READ,
  VFIO_USER_F_DMA_REGION_WRITE,
  VFIO_USER_F_DMA_UNMAP_ALL,
} from '../protocol.js';
import { ClientFiles, type SharedRange } from './client-files.js';

const MAP_BYTES = 32;
const UNMAP_BYTES = 24;

interface ClientMap {
  readonly size: bigint;
  readonly memory: SharedRange | undefined;
}

export interface ClientMemoryOptions {
  readonly container: ContainerFile;
  /** Access to memory that the client does not share. */
  readonly remote: RemoteMemory;
  /** Maps memory that the client could truncate later; an access would then kill this process. */
  readonly trustsClient: boolean;
}

export class ClientMemory implements Disposable {
  readonly #options: ClientMemoryOptions;
  readonly #maps = new Map<bigint, ClientMap>();
  readonly #files: ClientFiles;

  constructor(options: ClientMemoryOptions) {
    this.#options = options;
    this.#files = new ClientFiles(options.trustsClient);
  }

  /** VFIO_USER_DMA_MAP. @throws SysError EINVAL, ENOSPC or EEXIST as MAP_DMA; errors of {@link ClientFiles.share} */
  map(payload: Uint8Array, fds: Fd[]): void {
    const reader = new Reader(VFIO_USER_DMA_MAP, payload);
    reader.argsz(MAP_BYTES);
    const [flags, offset, at, size] = [reader.u32(), reader.size(), iova(reader.u64()), reader.u64()];
    const known = VFIO_USER_F_DMA_REGION_READ | VFIO_USER_F_DMA_REGION_WRITE;
    if ((flags & ~known) !== 0) throw invalid(VFIO_USER_DMA_MAP, `flags 0x${flags.toString(16)}`);
    if (fds.length > 1) throw invalid(VFIO_USER_DMA_MAP, `${fds.length} descriptors for one map`);
    if (this.#maps.size >= DEFAULT_MAX_DMA_MAPS) {
      const hint = `${DEFAULT_MAX_DMA_MAPS} maps are the limit`;
      throw new SysError({ call: 'VFIO_USER_DMA_MAP', target: 'client', errno: errno.ENOSPC, hint });
    }
    const isWritable = (flags & VFIO_USER_F_DMA_REGION_WRITE) !== 0;
    const isReadable = (flags & VFIO_USER_F_DMA_REGION_READ) !== 0;
    using scope = new Scope();
    const [fd] = fds;
    const memory = fd === undefined ? undefined : this.#files.share(fd, offset, Number(size), isWritable);
    if (memory !== undefined) scope.own(memory);
    this.#options.container.mapDma({
      flags: (isReadable ? VFIO_DMA_MAP_FLAG_READ : 0) | (isWritable ? VFIO_DMA_MAP_FLAG_WRITE : 0),
      iova: at,
      size,
      ...(memory === undefined ? { remote: this.#options.remote } : { vaddr: memory.hva }),
    });
    scope.move();
    this.#maps.set(at, { size, memory });
  }

  /**
   * VFIO_USER_DMA_UNMAP; returns the reply. Unmaps every map inside of the range, of which there may be none, as type1v2
   * does: the specification has clients name one map exactly, but QEMU unmaps ranges of a power of two.
   * @throws SysError EINVAL if the range would cut a map
   */
  unmap(payload: Uint8Array): Uint8Array {
    const reader = new Reader(VFIO_USER_DMA_UNMAP, payload);
    const argsz = reader.argsz(UNMAP_BYTES);
    const [flags, at, size] = [reader.u32(), iova(reader.u64()), reader.u64()];
    if ((flags & ~VFIO_USER_F_DMA_UNMAP_ALL) !== 0)
      throw invalid(VFIO_USER_DMA_UNMAP, `flags 0x${flags.toString(16)}`);
    if ((flags & VFIO_USER_F_DMA_UNMAP_ALL) !== 0) {
      if (at !== 0n || size !== 0n) throw invalid(VFIO_USER_DMA_UNMAP, 'all of it, and a range');
      this.#unmapAll();
    } else {
      // From the container first: after that, no thread of the device uses the memory.
      this.#options.container.unmapDma({ flags: 0, iova: at, size });
      this.#forget({ iova: at, size });
    }
    return new Writer(UNMAP_BYTES).u32(argsz).u32(flags).u64(at).u64(size).bytes;
  }

  /** Releases the memory of all maps inside of a range. Most ranges are those of one map. */
  #forget(range: DmaRange): void {
    const isOne = this.#maps.get(range.iova)?.size === range.size;
    const keys = isOne ? [range.iova] : [...this.#maps.keys()];
    for (const at of keys) {
      const map = this.#maps.get(at) as ClientMap;
      if (!isOne && !holds(range, { iova: at, size: map.size })) continue;
      this.#maps.delete(at);
      map.memory?.[Symbol.dispose]();
    }
  }

  /** In one call: the container removes all maps in the order that is the cheapest for its devices. */
  #unmapAll(): void {
    if (this.#maps.size === 0) return;
    const { container } = this.#options;
    if (container.checkExtension(VFIO_UNMAP_ALL) > 0)
      container.unmapDma({ flags: VFIO_DMA_UNMAP_FLAG_ALL, iova: iova(0n), size: 0n });
    else for (const [at, { size }] of this.#maps) container.unmapDma({ flags: 0, iova: iova(at), size });
    this.#maps.clear();
    this.#files[Symbol.dispose]();
  }

  [Symbol.dispose](): void {
    this.#unmapAll();
  }
}
