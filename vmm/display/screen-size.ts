import { createEdid } from '../../devices/vgpu/edid.js';
import {
  EDID_MAX_SIZE,
  EDID_OFFSET,
  EDID_SIZE,
  LINK_STATE,
  MAX_XRES,
  MAX_YRES,
} from '../../devices/vgpu/edid-region.js';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import {
  type DeviceFile,
  type RegionInfo,
  VFIO_DEVICE_GFX_LINK_STATE_DOWN,
  VFIO_DEVICE_GFX_LINK_STATE_UP,
  VFIO_PCI_NUM_REGIONS,
  VFIO_REGION_INFO_CAP_TYPE,
  VFIO_REGION_SUBTYPE_GFX_EDID,
  VFIO_REGION_TYPE_GFX,
} from '../../vfio/uapi.js';

/** A screen's size, pixels. */
export interface ScreenSize {
  /** Pixels of a line. */
  readonly width: number;
  /** Lines. */
  readonly height: number;
}

/** What an EDID can tell. */
const MOST_PIXELS = 4095;

/**
 * Gives a screen of a device another size, by the region of its EDID, as VFIO has it: the link goes down, and up again with the new EDID.
 * The first such region is that of the first screen.
 * @throws SysError ENOTSUP for a device without that region; EINVAL for a size that it, or an EDID, cannot have; those of the device
 */
export function setScreenSize(file: DeviceFile, head: number, size: ScreenSize, target: string): void {
  const region = edidRegions(file)[head];
  if (region === undefined)
    throw refusal(target, errno.ENOTSUP, 'its screen has no EDID that can be replaced');
  const { width, height } = size;
  const isSize = (pixels: number): boolean =>
    Number.isInteger(pixels) && pixels >= 1 && pixels <= MOST_PIXELS;
  const [most, maxXres, maxYres] = [EDID_MAX_SIZE, MAX_XRES, MAX_YRES].map((at) => read(file, region, at));
  if (!isSize(width) || !isSize(height) || width > (maxXres as number) || height > (maxYres as number)) {
    const hint = `a screen of ${width} x ${height} pixels, where at most ${maxXres} x ${maxYres} can be`;
    throw refusal(target, errno.EINVAL, hint);
  }
  const edid = createEdid(width, height);
  if (edid.length > (most as number))
    throw refusal(target, errno.EINVAL, 'its EDID has no room for one block');
  write(file, region, LINK_STATE, VFIO_DEVICE_GFX_LINK_STATE_DOWN);
  file.write(region.offset + read(file, region, EDID_OFFSET), edid);
  write(file, region, EDID_SIZE, edid.length);
  write(file, region, LINK_STATE, VFIO_DEVICE_GFX_LINK_STATE_UP);
}

/** The largest size that {@link setScreenSize} can give a screen of a device; undefined if it can give none. */
export function largestSize(file: DeviceFile, head: number): ScreenSize | undefined {
  try {
    const region = edidRegions(file)[head];
    if (region === undefined) return undefined;
    const [width, height] = [MAX_XRES, MAX_YRES].map((at) => Math.min(MOST_PIXELS, read(file, region, at)));
    return width && height ? { width, height } : undefined;
  } catch (error) {
    if (error instanceof SysError) return undefined;
    throw error;
  }
}

function edidRegions(file: DeviceFile): RegionInfo[] {
  const { numRegions } = file.getInfo();
  return Array.from({ length: Math.max(0, numRegions - VFIO_PCI_NUM_REGIONS) }, (_, i) =>
    file.getRegionInfo(VFIO_PCI_NUM_REGIONS + i),
  ).filter(({ capabilities }) =>
    capabilities.some(
      (each) =>
        each.id === VFIO_REGION_INFO_CAP_TYPE &&
        each.type === VFIO_REGION_TYPE_GFX &&
        each.subtype === VFIO_REGION_SUBTYPE_GFX_EDID,
    ),
  );
}

function read(file: DeviceFile, { offset }: RegionInfo, at: number): number {
  const word = new Uint8Array(4);
  file.read(offset + at, word);
  return new DataView(word.buffer).getUint32(0, true);
}

function write(file: DeviceFile, { offset }: RegionInfo, at: number, value: number): void {
  const word = new Uint8Array(4);
  new DataView(word.buffer).setUint32(0, value, true);
  file.write(offset + at, word);
}

const refusal = (target: string, code: number, hint: string): SysError =>
  new SysError({ call: 'resize', target, errno: code, hint });
