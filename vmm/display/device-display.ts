import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { duplicateFd } from '../../sys/fd.js';
import {
  type DeviceFile,
  type GfxPlaneInfo,
  VFIO_GFX_PLANE_TYPE_DMABUF,
  VFIO_GFX_PLANE_TYPE_PROBE,
  VFIO_GFX_PLANE_TYPE_REGION,
} from '../../vfio/uapi.js';
import type { DisplayMemory, ShownPlane } from './messages.js';
import { planeBytes } from './pixels.js';

const CALL = 'VFIO_DEVICE_QUERY_GFX_PLANE';
const DRM_PLANE_TYPE_PRIMARY = 1;
const PAGE = 4096;

/** What a device of the guest shows. Machine thread only; it borrows the device's file. */
export class DeviceDisplay {
  /** The guest's PCI slot. */
  readonly slot: number;
  /** `00:03.0 vgpu-small` */
  readonly name: string;
  readonly #file: DeviceFile;
  /** Whether the main thread can map what is in a region, by index: asked for once. */
  readonly #isMappedByMain = new Map<number, boolean>();

  private constructor(slot: number, name: string, file: DeviceFile) {
    this.slot = slot;
    this.name = name;
    this.#file = file;
  }

  /** The display of a device, also one that will say why it cannot be looked at; undefined if it is none. */
  static find(slot: number, name: string, file: DeviceFile): DeviceDisplay | undefined {
    const types = [VFIO_GFX_PLANE_TYPE_REGION, VFIO_GFX_PLANE_TYPE_DMABUF];
    const isDisplay = types.some((type) => {
      try {
        return file.queryGfxPlane?.(query(type | VFIO_GFX_PLANE_TYPE_PROBE)) !== undefined;
      } catch (error) {
        if (error instanceof SysError) return false;
        throw error;
      }
    });
    return isDisplay ? new DeviceDisplay(slot, name, file) : undefined;
  }

  /**
   * What is shown now. Memory that the main thread can map is given to it once, and it reads the picture there; of a
   * device of the kernel it gets a copy, as a mapping of its own would keep the device open.
   * @throws SysError ENODATA while nothing is shown; EINVAL if the picture is not in a region, or not all of it
   */
  look(): ShownPlane {
    const plane = this.#query();
    const isMapped = this.#isMappedByMain.get(plane.regionIndex);
    if (isMapped === true) return this.#shown(plane);
    const memory = isMapped === false ? undefined : this.#give(plane);
    this.#isMappedByMain.set(plane.regionIndex, memory !== undefined);
    return memory === undefined ? this.#shown(plane, this.#copy(plane)) : { ...this.#shown(plane), memory };
  }

  /** The picture itself, for when the device is about to go. @throws SysError as {@link look} */
  still(): ShownPlane {
    const plane = this.#query();
    return this.#shown(plane, this.#copy(plane));
  }

  #shown(plane: GfxPlaneInfo, pixels?: Uint8Array): ShownPlane {
    const { slot, name } = this;
    return { slot, name, plane, ...(pixels === undefined ? {} : { pixels }) };
  }

  #query(): GfxPlaneInfo {
    const plane = this.#file.queryGfxPlane?.(query(VFIO_GFX_PLANE_TYPE_REGION));
    if (plane !== undefined && plane.drmFormat !== 0 && plane.width > 0 && plane.height > 0) return plane;
    const hint = 'the guest shows nothing now: its screen is off, or its mode does not fit the video memory';
    throw new SysError({ call: CALL, target: this.name, errno: errno.ENODATA, hint });
  }

  /** A descriptor of the video memory, which is the receiver's to close; undefined if it is no memory file. */
  #give({ regionIndex }: GfxPlaneInfo): DisplayMemory | undefined {
    const { offset, size } = this.#file.getRegionInfo(regionIndex);
    using mapping = this.#file.mmap(offset, Math.ceil(size / PAGE) * PAGE);
    const { file } = mapping;
    if (file === undefined) return undefined;
    const fd = duplicateFd(file.fd.number, `video memory of ${this.name}`);
    return { fd: fd.number, offset: file.offset, bytes: mapping.bytes };
  }

  #copy(plane: GfxPlaneInfo): Uint8Array {
    const { offset, size } = this.#file.getRegionInfo(plane.regionIndex);
    const bytes = planeBytes(plane, size, this.name);
    const from = Math.floor(plane.offset / PAGE) * PAGE;
    const end = Math.ceil((plane.offset + bytes) / PAGE) * PAGE;
    using mapping = this.#file.mmap(offset + from, end - from);
    // Shared, so that sending it on to the main thread copies nothing.
    const copy = new Uint8Array(new SharedArrayBuffer(bytes));
    copy.set(mapping.view.slice(plane.offset - from, bytes));
    return copy;
  }
}

const query = (flags: number) => ({ flags, drmPlaneType: DRM_PLANE_TYPE_PRIMARY });

/** The display of a slot, or the first one. @throws SysError ENODEV if there is none */
export function chooseDisplay(displays: readonly DeviceDisplay[], slot: number | undefined): DeviceDisplay {
  const found = slot === undefined ? displays[0] : displays.find((display) => display.slot === slot);
  if (found !== undefined) return found;
  const others = displays.map(({ name }) => name).join(', ');
  const target = slot === undefined ? 'the machine' : `PCI slot ${slot}`;
  const hint =
    others === '' ? 'no device shows a picture: --device vgpu-small does' : `displays are: ${others}`;
  throw new SysError({ call: CALL, target, errno: errno.ENODEV, hint });
}
