/** Guest memory for devices of other processes: passed to each server by descriptor, else accessed on its request. */

import { formatRange, type Hva, iova as toIova } from '../../../sys/address.js';
import { errno } from '../../../sys/errno.js';
import { SysError } from '../../../sys/error.js';
import { Fd } from '../../../sys/fd.js';
import { findMapping, type Mapping } from '../../../sys/mapping.js';
import {
  type DmaRange,
  holds,
  IOMMU_PAGE,
  IOVA_PAGE_SIZES,
  mapProblem,
  overlaps,
  rangeProblem,
  wraps,
} from '../../dma-range.js';
import { type DmaTableEntry, type DmaTableWriter, dmaProt } from '../../dma-table.js';
import { remoteMemory } from '../../remote-memory.js';
import {
  type ContainerFile,
  type DmaMap,
  type DmaUnmap,
  type IommuInfo,
  type RemoteMemory,
  VFIO_API_VERSION,
  VFIO_DMA_MAP_FLAG_READ,
  VFIO_DMA_MAP_FLAG_WRITE,
  VFIO_DMA_UNMAP_FLAG_ALL,
  VFIO_TYPE1v2_IOMMU,
  VFIO_UNMAP_ALL,
} from '../../uapi.js';
import { Writer } from '../message.js';
import {
  DEFAULT_MAX_DMA_MAPS,
  MAX_ADDRESS,
  VFIO_USER_DMA_MAP,
  VFIO_USER_DMA_UNMAP,
  VFIO_USER_F_DMA_REGION_READ,
  VFIO_USER_F_DMA_REGION_WRITE,
} from '../protocol.js';
import type { Capabilities } from '../version.js';
import type { Connection, Request } from './connection.js';
import { serveDma } from './dma-request.js';

const MAP_BYTES = 32;
const UNMAP_BYTES = 24;

type ProcessMap = Extract<DmaMap, { readonly vaddr: Hva }>;
type RemoteMap = Extract<DmaMap, { readonly remote: RemoteMemory }>;

/** A map of memory of this process, or of another one that is asked for it when a server asks. */
type Known =
  | { readonly map: ProcessMap; readonly mapping: Mapping }
  | { readonly map: RemoteMap; readonly mapping?: never };

const userError = (call: string, code: keyof typeof errno, hint: string): SysError =>
  new SysError({ call, target: 'container (vfio-user)', errno: errno[code], hint });

export class UserContainerFile implements ContainerFile {
  readonly target = 'container (vfio-user)';
  readonly #connections = new Set<Connection>();
  readonly #maps = new Map<bigint, Known>();
  /** The maps in the connections' tables, by IOVA: those whose addresses are exact in a table. */
  readonly #published: ProcessMap[] = [];
  #hasIommu = false;

  getApiVersion(): number {
    return VFIO_API_VERSION;
  }

  checkExtension(extension: number): number {
    return extension === VFIO_TYPE1v2_IOMMU || extension === VFIO_UNMAP_ALL ? 1 : 0;
  }

  setIommu(type: number): void {
    if (this.#connections.size === 0 || this.#hasIommu)
      throw userError(
        'VFIO_SET_IOMMU',
        'EINVAL',
        this.#hasIommu ? 'it is set' : 'put a group into the container first',
      );
    if (type === VFIO_UNMAP_ALL)
      throw userError('VFIO_SET_IOMMU', 'EINVAL', `${type} is an extension, not a type`);
    if (type !== VFIO_TYPE1v2_IOMMU) throw userError('VFIO_SET_IOMMU', 'ENODEV', 'there is type1v2 only');
    this.#hasIommu = true;
  }

  getIommuInfo(): IommuInfo {
    this.#requireIommu('VFIO_IOMMU_GET_INFO');
    const limits = [...this.#connections].map(({ capabilities }) => capabilities.maxDmaMaps);
    return {
      pageSizes: IOVA_PAGE_SIZES - (this.#pageSize - IOMMU_PAGE),
      iovaRanges: [],
      dmaAvailable: Math.max(0, Math.min(DEFAULT_MAX_DMA_MAPS, ...limits) - this.#maps.size),
    };
  }

  /** The smallest page that all servers can map (pgsizes). */
  get #pageSize(): bigint {
    return [...this.#connections].reduce(
      (most, { capabilities }) => bigMax(most, pageOf(capabilities)),
      IOMMU_PAGE,
    );
  }

  #requireIommu(call: string): void {
    if (!this.#hasIommu) throw userError(call, 'EINVAL', 'set its IOMMU first');
  }

  /** @throws SysError ENOSPC, EINVAL if a server's limits do not allow the maps that are there */
  #requireRoom({ path, capabilities }: Connection): void {
    const call = 'VFIO_USER_DMA_MAP';
    const { maxDmaMaps } = capabilities;
    if (this.#maps.size > maxDmaMaps) {
      const hint = `there are ${this.#maps.size}, and ${path} takes ${maxDmaMaps} (max_dma_maps)`;
      throw userError(call, 'ENOSPC', hint);
    }
    const page = pageOf(capabilities);
    for (const { map } of this.#maps.values())
      if ((map.iova | map.size) % page !== 0n)
        throw userError(call, 'EINVAL', `${formatRange(map.iova, map.size)}: ${pagesHint(path, page)}`);
  }

  /** Adds a server and sends it all maps. @throws SysError of the map that it refuses; ENOSPC, EINVAL of its limits */
  add(connection: Connection): void {
    this.#requireRoom(connection);
    const known = [...this.#maps.values()];
    // First: DMA may come before the reply to the map that it uses.
    connection.setHandler((command, payload) => serveDma(command, payload, (...copy) => this.#copy(...copy)));
    connection.dmaTable?.replace(this.#published.map(toEntry));
    try {
      const errors = this.#tell(connection, known);
      const refused = errors.find((error) => error !== undefined);
      if (refused !== undefined) {
        for (const [i, { map }] of known.entries()) if (errors[i] === undefined) untell(connection, map);
        throw refused;
      }
    } catch (error) {
      forbid(connection);
      throw error;
    }
    this.#connections.add(connection);
  }

  /** Removes a server and unmaps its memory. Removing the last one releases the IOMMU. */
  remove(connection: Connection): void {
    this.#connections.delete(connection);
    for (const { map } of this.#maps.values()) untell(connection, map);
    forbid(connection);
    if (this.#connections.size > 0) return;
    this.#maps.clear();
    this.#published.length = 0;
    this.#hasIommu = false;
  }

  mapDma(map: DmaMap): void {
    const [error] = this.mapDmas([map]);
    if (error !== undefined) throw error;
  }

  mapDmas(maps: readonly DmaMap[]): (SysError | undefined)[] {
    this.#requireIommu('VFIO_IOMMU_MAP_DMA');
    const errors = maps.map((): SysError | undefined => undefined);
    const entries = new Map<number, Known>();
    for (const [i, map] of maps.entries()) {
      try {
        const entry = this.#checked(map);
        // A server may use the map before its reply is here.
        this.#insert(entry);
        entries.set(i, entry);
      } catch (error) {
        if (!(error instanceof SysError)) throw error;
        errors[i] = error;
      }
    }
    const told: Connection[] = [];
    for (const connection of this.#connections) {
      if (connection.isGone) continue;
      const refusals = this.#tellOrEnd(connection, [...entries.values()]);
      for (const [n, [i, { map }]] of [...entries].entries()) {
        if (refusals[n] === undefined) continue;
        errors[i] = refusals[n];
        for (const other of told) untell(other, map);
        this.#delete(map);
        entries.delete(i);
      }
      told.push(connection);
    }
    return errors;
  }

  /** As {@link #tell}; a connection that ends meanwhile refuses all. */
  #tellOrEnd(connection: Connection, maps: readonly Known[]): (SysError | undefined)[] {
    try {
      return this.#tell(connection, maps);
    } catch (error) {
      if (!(error instanceof SysError)) throw error;
      return maps.map(() => error);
    }
  }

  /** @throws SysError as {@link mapDma}, of what is known here */
  #checked(map: DmaMap): Known {
    const call = 'VFIO_IOMMU_MAP_DMA';
    const { iova, size } = map;
    const where = `IOVA ${formatRange(iova, size)}`;
    const connections = [...this.#connections];
    // The thread that serves a twin socket cannot ask for it.
    if (map.remote !== undefined && connections.some(({ dmaTable }) => dmaTable !== undefined))
      throw remoteMemory(call, `${this.target}, ${where}`);
    const problem = mapProblem(map) ?? (wraps(iova, size) ? 'the range wraps' : undefined);
    if (problem !== undefined) throw userError(call, 'EINVAL', problem);
    const picky = connections.find(({ capabilities }) => (iova | size) % pageOf(capabilities) !== 0n);
    if (picky !== undefined)
      throw userError(call, 'EINVAL', `${where}: ${pagesHint(picky.path, pageOf(picky.capabilities))}`);
    if (this.#overlapping(map) !== undefined)
      throw userError(call, 'EEXIST', `0x${iova.toString(16)} overlaps a map`);
    const full = connections.find(({ capabilities }) => this.#maps.size >= capabilities.maxDmaMaps);
    if (full !== undefined) {
      const hint = `${full.path} takes no more than ${full.capabilities.maxDmaMaps} maps (max_dma_maps)`;
      throw userError(call, 'ENOSPC', hint);
    }
    if (this.#maps.size >= DEFAULT_MAX_DMA_MAPS)
      throw userError(call, 'ENOSPC', `${DEFAULT_MAX_DMA_MAPS} maps are the limit`);
    return map.remote === undefined ? findMemory(map) : { map };
  }

  /** Tells a server of maps without waiting for each one's reply. @returns the error of each that it refuses */
  #tell(connection: Connection, maps: readonly Known[]): (SysError | undefined)[] {
    return connection.askEach(VFIO_USER_DMA_MAP, this.#requests(connection, maps));
  }

  *#requests({ capabilities }: Connection, maps: readonly Known[]): Iterable<Request> {
    for (const { map, mapping } of maps) {
      const { flags, iova, size } = map;
      const rights =
        ((flags & VFIO_DMA_MAP_FLAG_READ) === 0 ? 0 : VFIO_USER_F_DMA_REGION_READ) |
        ((flags & VFIO_DMA_MAP_FLAG_WRITE) === 0 ? 0 : VFIO_USER_F_DMA_REGION_WRITE);
      // Memory without a file cannot be shared, nor any with a server that takes no descriptors: it accesses it by message.
      const file = capabilities.maxMsgFds === 0 ? undefined : mapping?.file;
      const offset =
        file === undefined || mapping === undefined ? 0n : BigInt(file.offset) + (map.vaddr - mapping.hva);
      const payload = new Writer(MAP_BYTES).u32(MAP_BYTES).u32(rights).u64(offset).u64(iova).u64(size).bytes;
      // A map for reading only must not come with the right to write the file.
      const isWritable = (flags & VFIO_DMA_MAP_FLAG_WRITE) !== 0;
      using readOnly =
        file === undefined || isWritable ? undefined : Fd.readOnly(file.fd.number, this.target);
      const fd = readOnly ?? file?.fd;
      yield { payload, fds: fd === undefined ? [] : [fd.number] };
    }
  }

  #insert(known: Known): void {
    const { map } = known;
    this.#maps.set(map.iova, known);
    if (!isPublished(map)) return;
    const index = this.#indexOf(map.iova);
    this.#published.splice(index, 0, map);
    this.#publish(index, 0, [toEntry(map)]);
  }

  /** Returns once no thread accesses the memory for a server. */
  #delete(map: DmaMap): void {
    this.#maps.delete(map.iova);
    if (!isPublished(map)) return;
    const index = this.#indexOf(map.iova);
    this.#published.splice(index, 1);
    this.#publish(index, 1, []);
  }

  #publish(...change: Parameters<DmaTableWriter['splice']>): void {
    for (const { dmaTable } of this.#connections) dmaTable?.splice(...change);
  }

  /** Where in {@link UserContainerFile.#published} a map is, or belongs. */
  #indexOf(iova: bigint): number {
    let [low, high] = [0, this.#published.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#published[middle] as ProcessMap).iova < iova) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #overlapping(range: DmaRange): Known | undefined {
    for (const known of this.#maps.values()) if (overlaps(known.map, range)) return known;
    return undefined;
  }

  unmapDma({ flags, iova, size }: DmaUnmap): bigint {
    const call = 'VFIO_IOMMU_UNMAP_DMA';
    this.#requireIommu(call);
    const isAll = (flags & VFIO_DMA_UNMAP_FLAG_ALL) !== 0;
    if ((flags & ~VFIO_DMA_UNMAP_FLAG_ALL) !== 0 || (isAll && (iova !== 0n || size !== 0n)))
      throw userError(call, 'EINVAL', `flags 0x${flags.toString(16)}`);
    const range = { iova, size };
    const problem = isAll ? undefined : rangeProblem(range);
    if (problem !== undefined) throw userError(call, 'EINVAL', problem);
    const doomed = [...this.#maps.values()].filter(({ map }) => isAll || overlaps(map, range));
    const cut = doomed.find(({ map }) => !isAll && !holds(range, map));
    if (cut !== undefined)
      throw userError(call, 'EINVAL', `it would cut the map at 0x${cut.map.iova.toString(16)}`);
    for (const { map } of doomed) {
      // Deleted last: DMA that is in flight finishes before the server's reply.
      for (const connection of this.#connections) untell(connection, map);
      this.#delete(map);
    }
    return doomed.reduce((sum, { map }) => sum + map.size, 0n);
  }

  /** @throws SysError EFAULT if part of the range is not mapped; EPERM if a map does not allow the direction */
  #copy(at: bigint, data: Uint8Array, isWrite: boolean): void {
    const call = isWrite ? 'VFIO_USER_DMA_WRITE' : 'VFIO_USER_DMA_READ';
    for (let done = 0; done < data.length; ) {
      const from = at + BigInt(done);
      const known = this.#overlapping({ iova: from, size: 1n });
      if (known === undefined) throw userError(call, 'EFAULT', `0x${from.toString(16)} is not mapped`);
      const { map, mapping } = known;
      const right = isWrite ? VFIO_DMA_MAP_FLAG_WRITE : VFIO_DMA_MAP_FLAG_READ;
      if ((map.flags & right) === 0) throw userError(call, 'EPERM', 'the map does not allow this direction');
      const length = Math.min(data.length - done, Number(map.iova + map.size - from));
      const piece = data.subarray(done, done + length);
      done += length;
      if (mapping === undefined) {
        map.remote.rw(toIova(from), piece, isWrite);
        continue;
      }
      const memory = mapping.view.slice(Number(map.vaddr - mapping.hva + (from - map.iova)), length);
      if (isWrite) memory.set(piece);
      else piece.set(memory);
    }
  }

  [Symbol.dispose](): void {
    for (const connection of [...this.#connections]) this.remove(connection);
  }
}

/** The smallest page that a server can map (pgsizes). */
function pageOf({ pgsizes }: Pick<Capabilities, 'pgsizes'>): bigint {
  const mask = BigInt(pgsizes);
  return mask & -mask;
}

const pagesHint = (path: string, page: bigint): string =>
  `${path} maps pages of ${page} bytes and more (pgsizes)`;

const bigMax = (a: bigint, b: bigint): bigint => (a > b ? a : b);

/** The live mapping behind a map. @throws SysError EFAULT */
function findMemory(map: ProcessMap): Known {
  const { vaddr, size, flags } = map;
  const mapping = findMapping(vaddr, size);
  if (mapping === undefined)
    throw userError('VFIO_IOMMU_MAP_DMA', 'EFAULT', `0x${vaddr.toString(16)} is not in one live Mapping`);
  if (!mapping.isWritable && (flags & VFIO_DMA_MAP_FLAG_WRITE) !== 0)
    throw userError('VFIO_IOMMU_MAP_DMA', 'EFAULT', 'the memory is read-only');
  return { map, mapping };
}

const isPublished = (map: DmaMap): map is ProcessMap =>
  map.remote === undefined && map.iova + map.size <= MAX_ADDRESS;

const toEntry = ({ flags, iova, size, vaddr }: ProcessMap): DmaTableEntry => ({
  iova: Number(iova),
  bytes: Number(size),
  address: Number(vaddr),
  prot: dmaProt((flags & VFIO_DMA_MAP_FLAG_READ) !== 0, (flags & VFIO_DMA_MAP_FLAG_WRITE) !== 0),
});

/** Refuses all further requests of a server. */
function forbid(connection: Connection): void {
  connection.setHandler(undefined);
  connection.dmaTable?.replace([]);
}

/** Unmaps memory from a server; errors do not matter, as a server that disconnects or refuses cannot use it. */
function untell(connection: Connection, { iova, size }: DmaMap): void {
  if (connection.isGone) return;
  const request = new Writer(UNMAP_BYTES).u32(UNMAP_BYTES).u32(0).u64(iova).u64(size).bytes;
  try {
    connection.ask(VFIO_USER_DMA_UNMAP, request);
  } catch (error) {
    if (!(error instanceof SysError)) throw error;
  }
}
