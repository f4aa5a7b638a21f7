import { fstatSync } from 'node:fs';
import { errno } from '../../sys/errno.js';
import { fromNodeError, SysError } from '../../sys/error.js';
import type { Fd } from '../../sys/fd.js';
import { checkedResult, iow, type Request, tryIoctl } from '../../sys/ioctl.js';
import { Mapping } from '../../sys/mapping.js';
import { Scope } from '../../sys/scope.js';
import { struct } from '../../sys/struct.js';
import type { GfxPlaneInfo } from '../../vfio/uapi.js';
import { planeBytes } from './pixels.js';

/** Linux drops VM_SHARED of a map of a file that is open for reading only, and some drivers take no other. @see mbochs_mmap_dmabuf */
const REFUSED =
  'the driver refuses to have a dma-buf mapped that it has exported for reading only, so that its picture cannot be looked at; only a ' +
  'bochs-display’s is read from its BAR then';
const DMA_BUF_SYNC_READ = 1n;
const DMA_BUF_SYNC_START = 0n;
const DMA_BUF_SYNC_END = 4n;

/** linux/dma-buf.h */
export const DmaBufSync = struct('struct dma_buf_sync', 'linux/dma-buf.h', { flags: 'u64' });
/** Around each access by the processor, so that caches and devices agree. */
export const DMA_BUF_IOCTL_SYNC: Request = iow('DMA_BUF_IOCTL_SYNC', 0x62, 0, DmaBufSync, {
  hints: { EINTR: 'a device that draws into it has not ended: look again' },
});

/** A mapped dma-buf that a display has exported, for reading pictures. One thread only. */
export class DmaBuf implements Disposable {
  readonly #fd: Fd;
  readonly #mapping: Mapping;
  readonly #owned: Scope;

  /**
   * Takes ownership of the descriptor, and closes it if it throws.
   * @throws SysError of mmap(2); EINVAL for a file without a size
   */
  constructor(fd: Fd) {
    using undo = new Scope();
    this.#fd = undo.own(fd);
    this.#mapping = undo.own(Mapping.file(fd, sizeOf(fd), { isWritable: false, hint: REFUSED }));
    this.#owned = undo.move();
  }

  /**
   * A copy of the plane, in memory that threads share.
   * @throws SysError EINVAL for a plane that extends past the buffer, or has a format or modifier that is not known; of
   *   DMA_BUF_IOCTL_SYNC
   */
  copy(plane: GfxPlaneInfo, name: string): Uint8Array {
    const bytes = planeBytes(plane, this.#mapping.view.bytes, name);
    const copy = new Uint8Array(new SharedArrayBuffer(bytes));
    this.#sync(DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ);
    copy.set(this.#mapping.view.slice(plane.offset, bytes));
    this.#sync(DMA_BUF_SYNC_END | DMA_BUF_SYNC_READ);
    return copy;
  }

  /** Memory files of drivers in this process need none, and do not know the call. */
  #sync(flags: bigint): void {
    const result = tryIoctl(this.#fd, DMA_BUF_IOCTL_SYNC, DmaBufSync.encode({ flags }));
    if (result !== -errno.ENOTTY) checkedResult(result, DMA_BUF_IOCTL_SYNC, this.#fd.target);
  }

  /** Unmaps and closes it. */
  [Symbol.dispose](): void {
    this.#owned[Symbol.dispose]();
  }
}

function sizeOf(fd: Fd): number {
  let size: number;
  try {
    ({ size } = fstatSync(fd.number));
  } catch (error) {
    throw fromNodeError(error, 'fstat', fd.target);
  }
  if (size > 0) return size;
  throw new SysError({
    call: 'mmap',
    target: fd.target,
    errno: errno.EINVAL,
    hint: 'the dma-buf has no size',
  });
}
