import { errno } from '../../sys/errno.js';
import { isErrno, SysError } from '../../sys/error.js';
import { duplicateFd } from '../../sys/fd.js';
import { DRM_PLANE_TYPE_CURSOR, DRM_PLANE_TYPE_PRIMARY } from '../../vfio/drm.js';
import {
  type DeviceFile,
  type GfxPlaneInfo,
  type GfxPlaneQuery,
  VFIO_GFX_PLANE_TYPE_DMABUF,
  VFIO_GFX_PLANE_TYPE_PROBE,
  VFIO_GFX_PLANE_TYPE_REGION,
  VFIO_REGION_INFO_FLAG_MMAP,
} from '../../vfio/uapi.js';
import { BochsDisplay } from './bochs-display.js';
import { DmaBuf } from './dma-buf.js';
import type { DisplayMemory, DisplayName, ShownCursor, ShownPlane } from './messages.js';
import { planeBytes } from './pixels.js';
import { largestSize, type ScreenSize, setScreenSize } from './screen-size.js';

const CALL = 'VFIO_DEVICE_QUERY_GFX_PLANE';
const GET_GFX_DMABUF = 'VFIO_DEVICE_GET_GFX_DMABUF';
/** Screens of a device that are looked for, and the largest cursor's side, pixels. */
const MOST_HEADS = 16;
const MOST_CURSOR = 512;
const PAGE = 4096;
/** Bytes that one read of a region asks for. */
const MOST_READ = 1 << 20;

/**
 * The display of an assigned device, whose pictures lie in a region or in dma-bufs. Machine thread only; borrows the
 * device's file, and is disposed before it.
 */
export class DeviceDisplay implements Disposable {
  /** The guest's PCI slot. */
  readonly slot: number;
  /** `00:03.0 vgpu-small`; that of a second screen ends with `, screen 2`. */
  readonly name: string;
  /** The device's name. */
  readonly device: string;
  /** Which screen of a device that has several, from 0 on. */
  readonly head: number;
  /** Undefined until the device has been asked; then null if there is none. */
  #largest: ScreenSize | null | undefined;
  readonly #file: DeviceFile;
  /** VFIO_GFX_PLANE_TYPE_REGION or DMABUF. */
  readonly #planes: number;
  /** What was shown last, if that is in one. It is kept open: the kernel's mbochs cannot export one twice. */
  #dmaBuf: { readonly id: number; readonly buf: DmaBuf } | undefined;
  /** Set once a dma-buf was not exported, or could not be mapped; from then on, the picture is read from the device's BAR. */
  #bochs: BochsDisplay | undefined;
  /** Whether the main thread can map a region's memory, by region index; determined once per region. */
  readonly #isMappedByMain = new Map<number, boolean>();

  /** Whether the device knows of cursors; undefined until it has been asked. */
  #hasCursor: boolean | undefined;

  private constructor(slot: number, name: string, file: DeviceFile, head: number, planes: number) {
    this.#planes = planes;
    this.slot = slot;
    this.name = head === 0 ? name : `${name}, screen ${head + 1}`;
    this.head = head;
    this.device = name;
    this.#file = file;
  }

  /** @see all */
  static find(slot: number, name: string, file: DeviceFile): DeviceDisplay | undefined {
    return DeviceDisplay.all(slot, name, file)[0];
  }

  /**
   * The displays of a device, one for each of its screens; empty if it has none. A display whose picture cannot be read is returned too,
   * and reports why when read.
   */
  static all(slot: number, name: string, file: DeviceFile): readonly DeviceDisplay[] {
    const types = [VFIO_GFX_PLANE_TYPE_REGION, VFIO_GFX_PLANE_TYPE_DMABUF];
    const planesOf = (head: number): number | undefined =>
      types.find((type) => {
        try {
          const probe = planeQuery(type | VFIO_GFX_PLANE_TYPE_PROBE, DRM_PLANE_TYPE_PRIMARY, head);
          return file.queryGfxPlane?.(probe) !== undefined;
        } catch (error) {
          if (error instanceof SysError) return false;
          throw error;
        }
      });
    const displays: DeviceDisplay[] = [];
    for (let head = 0; head < MOST_HEADS; head++) {
      const planes = planesOf(head);
      if (planes === undefined) break;
      displays.push(new DeviceDisplay(slot, name, file, head, planes));
    }
    return displays;
  }

  /**
   * The current picture. Video memory that the main thread can map is passed to it once, and it reads the picture
   * there. For a kernel device it gets a copy, since a mapping of its own would keep the device open.
   * @throws SysError ENODATA while nothing is shown; EINVAL if the picture extends past its region or dma-buf, or has a
   *   format or modifier that is not known
   */
  look(): ShownPlane {
    const plane = this.#primary();
    if (plane.dmabufId !== undefined) return this.#shown(plane, this.#copy(plane));
    const isMapped = this.#isMappedByMain.get(plane.regionIndex);
    if (isMapped === true) return this.#shown(plane);
    const memory = isMapped === false ? undefined : this.#give(plane);
    this.#isMappedByMain.set(plane.regionIndex, memory !== undefined);
    return memory === undefined ? this.#shown(plane, this.#copy(plane)) : { ...this.#shown(plane), memory };
  }

  /**
   * A copy of the picture, for use after the device is closed. This thread handles the guest's trapped accesses, so the
   * guest shows no other frame while it copies. @throws SysError as {@link look}
   */
  still(): ShownPlane {
    const plane = this.#primary();
    return this.#shown(plane, this.#copy(plane));
  }

  /** The largest size that {@link resize} can give, if any; asks the device once, for whoever wants to know first. */
  askLargest(): ScreenSize | undefined {
    if (this.#largest === undefined) this.#largest = largestSize(this.#file, this.head) ?? null;
    return this.#largest ?? undefined;
  }

  /** Tells the guest that the screen has another size. @throws SysError as {@link setScreenSize} */
  resize(size: ScreenSize): void {
    setScreenSize(this.#file, this.head, size, this.name);
  }

  #shown(plane: GfxPlaneInfo, pixels?: Uint8Array): ShownPlane {
    const cursor = this.#cursor(plane);
    return {
      ...nameOf(this),
      plane,
      ...(cursor === undefined ? {} : { cursor }),
      ...(pixels === undefined ? {} : { pixels }),
    };
  }

  /** A cursor that is wrong is none: the picture is there all the same. */
  #cursor(below: GfxPlaneInfo): ShownCursor | undefined {
    if (this.#hasCursor === false) return undefined;
    try {
      const plane = this.#file.queryGfxPlane?.(this.#query(DRM_PLANE_TYPE_CURSOR));
      this.#hasCursor = true;
      if (plane === undefined || plane.drmFormat === 0 || plane.width === 0 || plane.height === 0)
        return undefined;
      // The kernel's mdpy answers any query by its only plane.
      if (plane.regionIndex === below.regionIndex && plane.offset === below.offset) return undefined;
      if (plane.width > MOST_CURSOR || plane.height > MOST_CURSOR) return undefined;
      return { plane, pixels: this.#copy(plane) };
    } catch (error) {
      if (!(error instanceof SysError)) throw error;
      // The kernel's display drivers refuse a plane that they do not have.
      this.#hasCursor ??= false;
      return undefined;
    }
  }

  #query(drmPlaneType: number): GfxPlaneQuery {
    return planeQuery(this.#planes, drmPlaneType, this.head);
  }

  /** The kernel's mbochs makes the dma-buf of a new mode when it is asked, fails with ENOMEM, and has it the next time. */
  #asked(drmPlaneType: number): GfxPlaneInfo | undefined {
    const ask = () => this.#file.queryGfxPlane?.(this.#query(drmPlaneType));
    try {
      return ask();
    } catch (error) {
      if (!isErrno(error, 'ENOMEM')) throw error;
      return ask();
    }
  }

  #primary(): GfxPlaneInfo {
    const plane = this.#current();
    if (plane !== undefined && plane.drmFormat !== 0 && plane.width > 0 && plane.height > 0) return plane;
    const hint = 'the guest shows nothing now: its screen is off, or its mode does not fit the video memory';
    throw new SysError({ call: CALL, target: this.name, errno: errno.ENODATA, hint });
  }

  /** A bochs-display whose dma-bufs cannot be mapped is not asked for more of them: mbochs keeps one for every mode. */
  #current(): GfxPlaneInfo | undefined {
    if (this.#bochs !== undefined) return this.#bochs.plane();
    const plane = this.#asked(DRM_PLANE_TYPE_PRIMARY);
    if (plane?.dmabufId === undefined || plane.drmFormat === 0) return plane;
    try {
      this.#exported(plane.dmabufId);
      return plane;
    } catch (error) {
      // Of mmap(2); of the export if the picture does not begin at a page, as mbochs has it.
      const isRefused = isErrno(error, 'EINVAL') || isErrno(error, 'EACCES');
      if (isRefused) this.#bochs = BochsDisplay.find(this.#file, this.name);
      if (this.#bochs === undefined) throw error;
      this.#hasCursor = false;
      return this.#bochs.plane();
    }
  }

  /** A descriptor of the video memory, which the receiver must close; undefined if it is not a memory file. */
  #give({ regionIndex }: GfxPlaneInfo): DisplayMemory | undefined {
    const { offset, size, flags } = this.#file.getRegionInfo(regionIndex);
    if ((flags & VFIO_REGION_INFO_FLAG_MMAP) === 0) return undefined;
    using mapping = this.#file.mmap(offset, Math.ceil(size / PAGE) * PAGE);
    const { file } = mapping;
    if (file === undefined) return undefined;
    const fd = duplicateFd(file.fd.number, `video memory of ${this.name}`);
    return { fd: fd.number, offset: file.offset, bytes: mapping.bytes };
  }

  #copy(plane: GfxPlaneInfo): Uint8Array {
    if (plane.dmabufId !== undefined) return this.#exported(plane.dmabufId).copy(plane, this.name);
    const { offset, size, flags } = this.#file.getRegionInfo(plane.regionIndex);
    const bytes = planeBytes(plane, size, this.name);
    if ((flags & VFIO_REGION_INFO_FLAG_MMAP) === 0) return this.#read(offset + plane.offset, bytes);
    // mbochs maps its memory from the start only.
    const from = this.#bochs === undefined ? Math.floor(plane.offset / PAGE) * PAGE : 0;
    const end = Math.ceil((plane.offset + bytes) / PAGE) * PAGE;
    using mapping = this.#file.mmap(offset + from, end - from);
    // Shared, so that posting it to the main thread does not copy it.
    const copy = new Uint8Array(new SharedArrayBuffer(bytes));
    copy.set(mapping.view.slice(plane.offset - from, bytes));
    return copy;
  }

  /** The dma-buf that is shown. @throws SysError of VFIO_DEVICE_GET_GFX_DMABUF or {@link DmaBuf} */
  #exported(id: number): DmaBuf {
    if (this.#dmaBuf?.id === id) return this.#dmaBuf.buf;
    this[Symbol.dispose]();
    const fd = this.#file.getGfxDmabuf?.(id);
    if (fd === undefined)
      throw new SysError({ call: GET_GFX_DMABUF, target: this.name, errno: errno.ENOTTY });
    const buf = new DmaBuf(fd);
    this.#dmaBuf = { id, buf };
    return buf;
  }

  /** Closes the dma-buf that was shown last. */
  [Symbol.dispose](): void {
    const { buf } = this.#dmaBuf ?? {};
    this.#dmaBuf = undefined;
    buf?.[Symbol.dispose]();
  }

  /** From a region that cannot be mapped. @throws SysError EIO if it gives less */
  #read(offset: number, bytes: number): Uint8Array {
    const copy = new Uint8Array(new SharedArrayBuffer(bytes));
    for (let done = 0; done < bytes; ) {
      const read = this.#file.read(offset + done, copy.subarray(done, done + MOST_READ));
      if (read <= 0)
        throw new SysError({ call: 'pread', target: `${this.name}, its picture`, errno: errno.EIO });
      done += read;
    }
    return copy;
  }
}

/** A display for those who have no part of it. */
export const nameOf = ({ slot, name, head = 0 }: DisplayName): DisplayName => ({
  slot,
  name,
  ...(head > 0 && { head }),
});

/** The same in a list of those that are there. */
export const listed = (display: DeviceDisplay): DisplayName => {
  const largest = display.askLargest();
  return { ...nameOf(display), ...(largest && { largest }) };
};

/** Only those of further screens name one. */
const planeQuery = (flags: number, drmPlaneType: number, head: number): GfxPlaneQuery => ({
  flags,
  drmPlaneType,
  ...(head > 0 && { head }),
});

/** The screen of a slot, or of the first display. @throws SysError ENODEV if there is none */
export function chooseDisplay(
  displays: readonly DeviceDisplay[],
  slot: number | undefined,
  head = 0,
): DeviceDisplay {
  const of = slot ?? displays[0]?.slot;
  const found = displays.find((display) => display.slot === of && display.head === head);
  if (found !== undefined) return found;
  const others = displays.map(({ name }) => name).join(', ');
  const place = slot === undefined ? 'the machine' : `PCI slot ${slot}`;
  const target = head === 0 ? place : `${place}, screen ${head + 1}`;
  const hint =
    others === '' ? 'no device shows a picture: --device vgpu-small does' : `displays are: ${others}`;
  throw new SysError({ call: CALL, target, errno: errno.ENODEV, hint });
}
