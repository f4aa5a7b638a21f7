/** Files with which a client shares its memory, mapped into this process. */
import { fstatSync } from 'node:fs';
import { type Hva, hva } from '../../../sys/address.js';
import { errno } from '../../../sys/errno.js';
import { SysError } from '../../../sys/error.js';
import type { Fd } from '../../../sys/fd.js';
import { fileKind, Mapping } from '../../../sys/mapping.js';
import { Scope } from '../../../sys/scope.js';
import { trace } from '../../../sys/trace.js';
import { invalid } from '../message.js';
import { VFIO_USER_DMA_MAP } from '../protocol.js';
import { MOST_CLIENT_MAPPED_BYTES, MOST_CLIENT_MAPPINGS } from './limits.js';

const PAGE = 4096;
/** Files of a client whose descriptors are kept. */
const MOST_KEPT_FILES = 64;

/** Part of a client's memory. Disposing releases it. */
export interface SharedRange extends Disposable {
  readonly hva: Hva;
}

/** A mapping, and the number of ranges that use it. */
interface Mapped {
  readonly mapping: Mapping;
  readonly kept: Fd | undefined;
  /** Offset of the mapping in its file. */
  readonly start: number;
  users: number;
}

/**
 * Each file is mapped once, whole if the limits allow: the kernel limits the mappings of a process, and a client may map
 * its memory page by page.
 */
export class ClientFiles implements Disposable {
  readonly #trustsClient: boolean;
  /** By file and direction. */
  readonly #files = new Map<string, Mapped[]>();
  #bytes = 0;
  #count = 0;

  /** @param trustsClient maps files whose owner could make an access to them fault */
  constructor(trustsClient: boolean) {
    this.#trustsClient = trustsClient;
  }

  /**
   * Maps a range of a client's file; undefined if an access could fault, so that the range must be accessed by message.
   * @throws SysError EINVAL if the descriptor is not one of memory, or its file ends before the range; ENOSPC beyond
   *   the limits; ENOMEM if the host has too few huge pages; EACCES if the descriptor is for reading only
   */
  share(fd: Fd, offset: number, bytes: number, isWritable: boolean): SharedRange | undefined {
    const kind = fileKind(fd);
    if (kind === 'other') throw invalid(VFIO_USER_DMA_MAP, 'its descriptor is not one of memory');
    if (kind !== 'sealed' && !this.#trustsClient) return void noteMessages(kind);
    const stat = fstatSync(fd.number);
    if (!stat.isFile()) throw invalid(VFIO_USER_DMA_MAP, 'its descriptor is not one of memory');
    if (offset + bytes > stat.size)
      throw invalid(VFIO_USER_DMA_MAP, `the file has ${stat.size} bytes, fewer than are mapped`);
    const key = `${stat.dev}:${stat.ino}:${isWritable}`;
    const mapped =
      this.#find(key, offset, bytes) ??
      this.#map(key, fd, { offset, bytes, isWritable, fileBytes: stat.size, pageBytes: pageOf(stat), kind });
    mapped.users++;
    let isUsed = true;
    return {
      hva: hva(mapped.mapping.hva + BigInt(offset - mapped.start)),
      [Symbol.dispose]: () => {
        if (!isUsed) return;
        isUsed = false;
        if (--mapped.users === 0) this.#unmap(key, mapped);
      },
    };
  }

  #find(key: string, offset: number, bytes: number): Mapped | undefined {
    return this.#files
      .get(key)
      ?.find(({ start, mapping }) => start <= offset && offset + bytes <= start + mapping.bytes);
  }

  #map(
    key: string,
    fd: Fd,
    range: {
      readonly offset: number;
      readonly bytes: number;
      readonly isWritable: boolean;
      readonly fileBytes: number;
      readonly pageBytes: number;
      readonly kind: string;
    },
  ): Mapped {
    const { offset, bytes, isWritable, fileBytes, pageBytes, kind } = range;
    const left = MOST_CLIENT_MAPPED_BYTES - this.#bytes;
    const upTo = (end: number): number => Math.ceil(end / pageBytes) * pageBytes;
    const isWhole = upTo(fileBytes) <= left;
    const start = isWhole ? 0 : Math.floor(offset / pageBytes) * pageBytes;
    const length = upTo(isWhole ? fileBytes : offset + bytes) - start;
    if (length > left || this.#count >= MOST_CLIENT_MAPPINGS) throw full();
    // Kept for a server that this one forwards to.
    const kept = kind === 'sealed' && this.#count < MOST_KEPT_FILES ? fd.duplicate() : undefined;
    let mapping: Mapping;
    try {
      mapping = Mapping.file(kept ?? fd, length, {
        offset: start,
        isShareable: kept !== undefined,
        isWritable,
        target: 'client memory',
        isReserved: kind === 'huge',
      });
    } catch (error) {
      kept?.[Symbol.dispose]();
      throw error;
    }
    const mapped = { mapping, kept, start, users: 0 };
    this.#files.set(key, [...(this.#files.get(key) ?? []), mapped]);
    this.#bytes += length;
    this.#count++;
    return mapped;
  }

  #unmap(key: string, mapped: Mapped): void {
    const others = (this.#files.get(key) ?? []).filter((each) => each !== mapped);
    if (others.length > 0) this.#files.set(key, others);
    else this.#files.delete(key);
    this.#bytes -= mapped.mapping.bytes;
    this.#count--;
    mapped.mapping[Symbol.dispose]();
    mapped.kept?.[Symbol.dispose]();
  }

  /** Unmaps all, whoever uses it. */
  [Symbol.dispose](): void {
    using scope = new Scope();
    for (const { mapping, kept } of [...this.#files.values()].flat()) {
      if (kept !== undefined) scope.own(kept);
      scope.own(mapping);
    }
    this.#files.clear();
    this.#bytes = 0;
    this.#count = 0;
  }
}

/** Mappings begin and end with pages of the file: those of hugetlbfs are larger. */
const pageOf = ({ blksize }: { readonly blksize: number }): number =>
  blksize > PAGE && Number.isInteger(Math.log2(blksize)) ? blksize : PAGE;

const full = (): SysError => {
  const hint = `${MOST_CLIENT_MAPPINGS} mappings and ${MOST_CLIENT_MAPPED_BYTES} bytes of files are the limit`;
  return new SysError({ call: 'VFIO_USER_DMA_MAP', target: 'client', errno: errno.ENOSPC, hint });
};

function noteMessages(kind: 'huge' | 'file'): void {
  if (!trace.vfio.hasSubscribers) return;
  const text =
    kind === 'huge'
      ? 'the client shares huge pages, which the host may not have when they are used, so they are reached by messages ' +
        'only; give it other memory, or trust the client (--trust-client)'
      : 'the client shares memory that it could truncate (no F_SEAL_SHRINK), so it is accessed by message; give ' +
        'it a memory-backend-memfd, or trust the client (--trust-client)';
  trace.vfio.publish({ what: 'vfio-user', text });
}
