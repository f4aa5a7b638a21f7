/** `/dev/iommu`: the address spaces of devices opened by cdev. After drivers/iommu/iommufd. */
import { type Hva, type Iova, iova as toIova } from '../../sys/address.js';
import { holds, IOMMU_PAGE, mapProblem, mapProt, U64_END, wraps } from '../dma-range.js';
import type { IoasMap, IommufdFile, IommuInfo } from '../uapi.js';
import { vfioError } from '../vfio-error.js';
import { DMA_ENTRY_LIMIT, DmaSpace } from './dma-space.js';
import type { CoreEnvironment } from './environment.js';
import { isInRanges } from './iova-ranges.js';
import { Numbers, RefCount } from './ref-count.js';

const U64_MAX = U64_END - 1n;

/** An I/O address space. */
export interface Ioas {
  readonly kind: 'ioas';
  readonly space: DmaSpace;
  /** Number of attached devices; IOMMU_DESTROY fails with EBUSY while there are any. */
  users: number;
  iovaRanges: IommuInfo['iovaRanges'];
}

/** A bound device. */
interface Bound {
  readonly kind: 'device';
  readonly name: string;
}

/** The context behind the file. It outlives the file while devices are bound to it. */
export class Iommufd {
  readonly environment: CoreEnvironment;
  readonly target = 'iommufd (core)';
  readonly refs: RefCount;
  readonly #objects = new Map<number, Ioas | Bound>();
  readonly #ids = new Numbers();

  constructor(environment: CoreEnvironment) {
    this.environment = environment;
    this.refs = new RefCount(this.target, 1, (text) => environment.warn(text));
  }

  put(): void {
    if (!this.refs.put()) return;
    for (const [id, object] of this.#objects) {
      if (object.kind === 'ioas') this.destroy(id);
    }
    this.environment.free('iommufd');
  }

  /** Ids begin at 1. */
  #add(object: Ioas | Bound): number {
    const id = this.#ids.alloc() + 1;
    this.#objects.set(id, object);
    return id;
  }

  #remove(id: number): void {
    this.#objects.delete(id);
    this.#ids.free(id - 1);
  }

  allocIoas(): number {
    this.environment.allocate('ioas');
    const id = this.#add({
      kind: 'ioas',
      space: new DmaSpace(this.environment, 'IOAS'),
      users: 0,
      iovaRanges: [],
    });
    this.environment.log.event('ioas_alloc', { ioas: id });
    return id;
  }

  addDevice(name: string): number {
    return this.#add({ kind: 'device', name });
  }

  removeDevice(id: number): void {
    this.#remove(id);
  }

  /** @throws SysError ENOENT for an unknown IOAS */
  ioas(call: string, id: number): Ioas {
    const object = this.#objects.get(id);
    if (object?.kind !== 'ioas') throw vfioError(call, this.target, 'ENOENT', `there is no IOAS ${id}`);
    return object;
  }

  /** @throws SysError ENOENT for an unknown id; EBUSY for an IOAS with attached devices, or for a bound device */
  destroy(id: number): void {
    const call = 'IOMMU_DESTROY';
    const object = this.#objects.get(id);
    if (object === undefined) throw vfioError(call, this.target, 'ENOENT', `there is no object ${id}`);
    if (object.kind === 'device')
      throw vfioError(call, this.target, 'EBUSY', `close ${object.name} to unbind it`);
    if (object.users > 0)
      throw vfioError(call, this.target, 'EBUSY', `${object.users} devices are attached to it`);
    object.space.clear();
    this.#remove(id);
    this.environment.free('ioas');
  }
}

/** `/dev/iommu` of the core. */
export class CoreIommufdFile implements IommufdFile {
  readonly target: string;
  readonly #iommufd: Iommufd;
  #isOpen = true;

  private constructor(iommufd: Iommufd) {
    this.#iommufd = iommufd;
    this.target = iommufd.target;
  }

  /** @throws SysError ENOMEM */
  static open(environment: CoreEnvironment): CoreIommufdFile {
    environment.allocate('iommufd');
    return new CoreIommufdFile(new Iommufd(environment));
  }

  get isOpen(): boolean {
    return this.#isOpen;
  }

  /** @throws SysError EBADF after close */
  context(call: string): Iommufd {
    if (!this.#isOpen) throw vfioError(call, this.target, 'EBADF', 'the iommufd is closed');
    return this.#iommufd;
  }

  ioasAlloc(): number {
    return this.context('IOMMU_IOAS_ALLOC').allocIoas();
  }

  /**
   * @throws SysError ENOENT for an unknown IOAS; EEXIST if it overlaps a map; EINVAL misaligned, empty or outside the
   *   IOVA ranges; EOVERFLOW if it wraps; EFAULT; ENOSPC
   */
  ioasMap(ioas: number, map: IoasMap): Iova {
    const call = 'IOMMU_IOAS_MAP';
    const { space, iovaRanges } = this.context(call).ioas(call, ioas);
    const { flags, size } = map;
    const vaddr = map.vaddr ?? 0n;
    const fail = (hint: string) => vfioError(call, space.target, 'EINVAL', hint);
    const problem = mapProblem(map);
    if (problem !== undefined) throw fail(problem);
    const iova = map.iova ?? freeRange(call, space, iovaRanges, size);
    if (wraps(iova, size) || wraps(vaddr, size)) {
      throw vfioError(call, space.target, 'EOVERFLOW', 'the range wraps');
    }
    if (space.find(iova, size) !== undefined) {
      throw vfioError(call, space.target, 'EEXIST', `0x${iova.toString(16)} overlaps a map`);
    }
    if (!isInRanges(iovaRanges, iova, size)) throw fail('outside the IOVA ranges');
    if (space.maps.length >= DMA_ENTRY_LIMIT)
      throw vfioError(call, space.target, 'ENOSPC', `${DMA_ENTRY_LIMIT} maps`);
    space.insert(call, iova, size, map.remote ?? map.vaddr, mapProt(flags));
    return iova;
  }

  /** @throws SysError ENOENT if the range holds no map, or would split one; EOVERFLOW if it is empty or wraps */
  ioasUnmap(ioas: number, { iova, size }: { readonly iova: Iova; readonly size: bigint }): bigint {
    const call = 'IOMMU_IOAS_UNMAP';
    const { space } = this.context(call).ioas(call, ioas);
    const isAll = iova === 0n && size === U64_MAX;
    if (!isAll && (size <= 0n || wraps(iova, size))) {
      throw vfioError(call, space.target, 'EOVERFLOW', 'the range is empty or wraps');
    }
    const end = iova + size;
    let unmapped = 0n;
    try {
      for (let from: bigint = iova; ; ) {
        const dma = space.find(from, end - from);
        if (dma === undefined) break;
        if (!isAll && !holds({ iova, size }, dma)) {
          throw vfioError(call, space.target, 'ENOENT', 'the range would split a map');
        }
        from = dma.last + 1n;
        space.release(toIova(dma.iova), dma.size);
        if (dma.isUnlinked) continue;
        space.unlink(dma);
        unmapped += dma.size;
      }
    } finally {
      space.sweep();
    }
    if (unmapped === 0n && !isAll) throw vfioError(call, space.target, 'ENOENT', 'nothing is mapped there');
    return unmapped;
  }

  /**
   * IOMMU_IOAS_COPY: maps the memory behind a range of one IOAS into another; the caller need not know its host
   * address.
   * @throws SysError ENOENT unless one map of the source holds the whole range; else as {@link ioasMap}
   */
  ioasCopy(copy: {
    readonly from: number;
    readonly to: number;
    readonly source: Iova;
    readonly size: bigint;
    readonly flags: number;
    readonly iova?: Iova;
  }): Iova {
    const call = 'IOMMU_IOAS_COPY';
    const { space } = this.context(call).ioas(call, copy.from);
    const dma = space.find(copy.source, 1n);
    if (dma === undefined || !holds(dma, { iova: copy.source, size: copy.size })) {
      throw vfioError(call, space.target, 'ENOENT', 'the source does not lie in one map');
    }
    const { flags, size, source } = copy;
    const where = copy.iova === undefined ? {} : { iova: copy.iova };
    const { remote } = dma;
    if (remote === undefined) {
      const vaddr = (dma.vaddr + (source - dma.iova)) as Hva;
      return this.ioasMap(copy.to, { flags, vaddr, size, ...where });
    }
    // Its owner addresses the memory by the source's IOVA.
    const iova: Iova = this.ioasMap(copy.to, {
      flags,
      remote: { rw: (at, data, isWrite) => remote.rw((at - iova + source) as Iova, data, isWrite) },
      size,
      ...where,
    });
    return iova;
  }

  ioasIovaRanges(ioas: number): IommuInfo['iovaRanges'] {
    const call = 'IOMMU_IOAS_IOVA_RANGES';
    return this.context(call).ioas(call, ioas).iovaRanges;
  }

  destroy(id: number): void {
    this.context('IOMMU_DESTROY').destroy(id);
  }

  [Symbol.dispose](): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#iommufd.put();
  }
}

/**
 * The lowest free IOVA; without IOVA ranges page 0 stays unmapped, so that null is never valid.
 * @throws SysError ENOSPC
 */
function freeRange(call: string, space: DmaSpace, ranges: IommuInfo['iovaRanges'], size: bigint): Iova {
  const all = ranges.length > 0 ? ranges : [{ start: toIova(IOMMU_PAGE), last: toIova(U64_MAX) }];
  for (const { start, last } of all) {
    let at: bigint = start;
    for (;;) {
      if (at + size - 1n > last) break;
      const taken = space.find(at, size);
      if (taken === undefined) return toIova(at);
      at = taken.iova + taken.size;
    }
  }
  throw vfioError(call, space.target, 'ENOSPC', 'no free range of that size');
}
