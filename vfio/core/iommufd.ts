/** `/dev/iommu`: the address spaces of devices opened by cdev. After drivers/iommu/iommufd. */
import { type Hva, type Iova, iova as toIova } from '../../sys/address.js';
import { PROT_WRITE } from '../../sys/mapping.js';
import { holds, IOMMU_PAGE, mapProt, U64_END, wraps } from '../dma-range.js';
import {
  type IoasMap,
  type IommufdFile,
  type IommuInfo,
  type RemoteMemory,
  VFIO_DMA_MAP_FLAG_READ,
  VFIO_DMA_MAP_FLAG_WRITE,
} from '../uapi.js';
import { vfioError } from '../vfio-error.js';
import { DMA_ENTRY_LIMIT, type Dma, DmaSpace } from './dma-space.js';
import type { CoreEnvironment } from './environment.js';
import { intersectRanges, isInRanges } from './iova-ranges.js';
import { Numbers, RefCount } from './ref-count.js';

const U64_MAX = U64_END - 1n;
const MAP_FLAGS = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE;
const ALL_IOVAS: IommuInfo['iovaRanges'] = [{ start: toIova(0n), last: toIova(U64_MAX) }];

/** An I/O address space. */
export class Ioas {
  readonly kind = 'ioas';
  readonly space: DmaSpace;
  /** IOVA ranges of the attached devices; IOMMU_DESTROY fails with EBUSY while there are any. */
  readonly users = new Map<object, IommuInfo['iovaRanges']>();

  constructor(environment: CoreEnvironment) {
    this.space = new DmaSpace(environment, 'IOAS');
  }

  /** What every attached device can reach: everything while there is none; empty if they have nothing in common. */
  get iovaRanges(): IommuInfo['iovaRanges'] {
    let ranges = ALL_IOVAS;
    for (const own of this.users.values()) {
      const common = intersectRanges(ranges, own);
      if (common === undefined) return [];
      ranges = common;
    }
    return ranges;
  }

  /** iova_alignment: without devices, only the processes' memory limits what can be mapped where. */
  get alignment(): bigint {
    return this.users.size === 0 ? 1n : IOMMU_PAGE;
  }

  /** Whether a device with these IOVA ranges can reach all maps. */
  suits(own: IommuInfo['iovaRanges']): boolean {
    return this.space.maps.every(
      ({ iova, size, vaddr }) => (iova | size | vaddr) % IOMMU_PAGE === 0n && isInRanges(own, iova, size),
    );
  }
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
    // Only IOASes: each bound device held a reference.
    for (const id of this.#objects.keys()) this.destroy(id);
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
    const id = this.#add(new Ioas(this.environment));
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
    if (object.users.size > 0)
      throw vfioError(call, this.target, 'EBUSY', `${object.users.size} devices are attached to it`);
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
   * @see iommufd_ioas_map
   * @throws SysError ENOTSUP for unknown flags; EOVERFLOW if it wraps; EINVAL without a direction, empty, outside the
   *   IOVA ranges, or misaligned while devices are attached; ENOENT for an unknown IOAS; EEXIST if it overlaps a map;
   *   EFAULT; ENOSPC
   */
  ioasMap(id: number, map: IoasMap): Iova {
    const call = 'IOMMU_IOAS_MAP';
    const { flags, size } = map;
    const vaddr = map.vaddr ?? 0n;
    this.#checkArguments(call, flags, size, map.iova);
    const ioas = this.context(call).ioas(call, id);
    if (wraps(vaddr, size)) throw vfioError(call, ioas.space.target, 'EOVERFLOW', 'the memory wraps');
    const iova = this.#place(call, ioas, map.iova, size, vaddr);
    ioas.space.insert(call, iova, size, map.remote ?? map.vaddr, mapProt(flags));
    return iova;
  }

  /** @throws SysError ENOTSUP, EOVERFLOW or EINVAL for what can be in no IOAS */
  #checkArguments(
    call: string,
    flags: number,
    size: bigint,
    ...iovas: readonly (bigint | undefined)[]
  ): void {
    const { target } = this.context(call);
    const hint = `flags 0x${flags.toString(16)}`;
    if ((flags & ~MAP_FLAGS) !== 0) throw vfioError(call, target, 'ENOTSUP', hint);
    if ([size, ...iovas].some((each) => (each ?? 0n) >= U64_MAX))
      throw vfioError(call, target, 'EOVERFLOW', 'the range reaches past the address space');
    if ((flags & MAP_FLAGS) === 0) throw vfioError(call, target, 'EINVAL', hint);
  }

  /**
   * Checks where a map is to be, or finds a place for it. @see iopt_alloc_area_pages
   * @throws SysError EINVAL, EOVERFLOW, EEXIST and ENOSPC as {@link ioasMap}
   */
  #place(call: string, ioas: Ioas, wanted: Iova | undefined, size: bigint, vaddr: bigint, maps = 1): Iova {
    const { space, alignment, iovaRanges } = ioas;
    const fail = (hint: string) => vfioError(call, space.target, 'EINVAL', hint);
    if (size <= 0n) throw fail('the size must be more than 0');
    if ((size | vaddr | (wanted ?? 0n)) % alignment !== 0n)
      throw fail('address, IOVA and size must be multiples of the page size: devices are attached');
    if (space.maps.length + maps > DMA_ENTRY_LIMIT)
      throw vfioError(call, space.target, 'ENOSPC', `${DMA_ENTRY_LIMIT} maps`);
    if (wanted === undefined) return freeRange(call, space, iovaRanges, size, vaddr % IOMMU_PAGE);
    if (wraps(wanted, size)) throw vfioError(call, space.target, 'EOVERFLOW', 'the range wraps');
    if (iovaRanges.length === 0 || !isInRanges(iovaRanges, wanted, size))
      throw fail('outside the IOVA ranges');
    if (space.find(wanted, size) !== undefined) {
      throw vfioError(call, space.target, 'EEXIST', `0x${wanted.toString(16)} overlaps a map`);
    }
    return wanted;
  }

  /**
   * @see iommufd_ioas_unmap
   * @throws SysError ENOENT if the range holds no map, or would split one; EINVAL if it is empty; EOVERFLOW if it wraps
   */
  ioasUnmap(ioas: number, { iova, size }: { readonly iova: Iova; readonly size: bigint }): bigint {
    const call = 'IOMMU_IOAS_UNMAP';
    const { space } = this.context(call).ioas(call, ioas);
    const isAll = iova === 0n && size === U64_MAX;
    if (!isAll && (iova >= U64_MAX || size >= U64_MAX || wraps(iova, size)))
      throw vfioError(call, space.target, 'EOVERFLOW', 'the range wraps');
    if (size <= 0n) throw vfioError(call, space.target, 'EINVAL', 'the range is empty');
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
   * address. The range may cross maps that lie side by side.
   * @see iommufd_ioas_copy
   * @throws SysError ENOENT unless maps of the source hold the whole range; EPERM to write what the source was mapped
   *   for reading only; else as {@link ioasMap}
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
    const { flags, size, source } = copy;
    this.#checkArguments(call, flags, size, source, copy.iova);
    const context = this.context(call);
    const pieces = piecesOf(call, context.ioas(call, copy.from).space, source, size);
    const to = context.ioas(call, copy.to);
    const [{ dma: first }] = pieces;
    const vaddr = first.vaddr + (source - first.iova);
    const iova = this.#place(call, to, copy.iova, size, vaddr, pieces.length);
    const prot = mapProt(flags);
    if ((prot & PROT_WRITE) !== 0 && pieces.some(({ dma }) => !dma.isWritable))
      throw vfioError(call, to.space.target, 'EPERM', 'the source was mapped for reading only');
    const made: Dma[] = [];
    try {
      for (const { dma, at, bytes } of pieces) {
        const where = iova + (at - source);
        const memory = memoryOf(dma, at, where);
        made.push(to.space.insert(call, where, bytes, memory, prot, dma.isWritable));
      }
    } catch (error) {
      for (const dma of made) to.space.unlink(dma);
      to.space.sweep();
      throw error;
    }
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

interface Piece {
  readonly dma: Dma;
  /** IOVA of its first byte in the source. */
  readonly at: bigint;
  readonly bytes: bigint;
}

/** The maps of a range, each as far as it lies in it. @throws SysError EINVAL if it is empty; EOVERFLOW; ENOENT for a gap */
function piecesOf(call: string, space: DmaSpace, source: bigint, size: bigint): [Piece, ...Piece[]] {
  if (size <= 0n) throw vfioError(call, space.target, 'EINVAL', 'the range is empty');
  if (wraps(source, size)) throw vfioError(call, space.target, 'EOVERFLOW', 'the source wraps');
  const end = source + size;
  const piece = (at: bigint): Piece => {
    const dma = space.find(at, 1n);
    if (dma === undefined)
      throw vfioError(call, space.target, 'ENOENT', `the source is not mapped at 0x${at.toString(16)}`);
    return { dma, at, bytes: (dma.last + 1n < end ? dma.last + 1n : end) - at };
  };
  const pieces: [Piece, ...Piece[]] = [piece(source)];
  for (;;) {
    const { at, bytes } = pieces[pieces.length - 1] as Piece;
    if (at + bytes === end) return pieces;
    pieces.push(piece(at + bytes));
  }
}

/** The memory of a map from IOVA `at` on, for a map at `where`: the owner of remote memory knows it by the source's IOVA. */
function memoryOf({ remote, vaddr, iova }: Dma, at: bigint, where: bigint): Hva | RemoteMemory {
  if (remote === undefined) return (vaddr + (at - iova)) as Hva;
  return { rw: (address, data, isWrite) => remote.rw((address - where + at) as Iova, data, isWrite) };
}

/**
 * The lowest free IOVA that lies in its page as the memory does. The first page stays unmapped, so that null is never
 * valid, and so does the last.
 * @param offset of the memory in its page
 * @see iopt_alloc_iova
 * @throws SysError EOVERFLOW for a size that cannot be aligned; ENOSPC
 */
function freeRange(
  call: string,
  space: DmaSpace,
  ranges: IommuInfo['iovaRanges'],
  size: bigint,
  offset: bigint,
): Iova {
  if (size >= U64_MAX / 2n)
    throw vfioError(call, space.target, 'EOVERFLOW', 'half the address space at once');
  const roundUp = (at: bigint) => at + ((IOMMU_PAGE - (at % IOMMU_PAGE)) % IOMMU_PAGE) + offset;
  for (const { start, last } of ranges) {
    const end = last < U64_MAX - IOMMU_PAGE ? last : U64_MAX - IOMMU_PAGE;
    let at = roundUp(start > IOMMU_PAGE ? start : IOMMU_PAGE);
    for (;;) {
      if (at + size - 1n > end) break;
      const taken = space.find(at, size);
      if (taken === undefined) return toIova(at);
      at = roundUp(taken.last + 1n);
    }
  }
  throw vfioError(call, space.target, 'ENOSPC', 'no free range of that size');
}
