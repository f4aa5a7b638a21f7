import { PAGE_SIZE } from '../../sys/address.js';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import {
  type GfxPlaneInfo,
  type GfxPlaneQuery,
  VFIO_GFX_PLANE_TYPE_PROBE,
  VFIO_GFX_PLANE_TYPE_REGION,
} from '../../vfio/uapi.js';
import type { Plane } from './dispi.js';

const DRM_PLANE_TYPE_PRIMARY = 1;
const NO_HOT_SPOT = 0xffff_ffff;
const PAGE = Number(PAGE_SIZE);

const NO_PLANE = {
  drmFormat: 0,
  drmFormatMod: 0n,
  width: 0,
  height: 0,
  stride: 0,
  size: 0,
  xPos: 0,
  yPos: 0,
  xHot: NO_HOT_SPOT,
  yHot: NO_HOT_SPOT,
  offset: 0,
} as const;

/**
 * VFIO_DEVICE_QUERY_GFX_PLANE of a card with a primary plane in a region.
 * @throws SysError EINVAL for planes of another type
 */
export function gfxPlane(
  target: string,
  regionIndex: number,
  { flags, drmPlaneType }: GfxPlaneQuery,
  plane: Plane | undefined,
): GfxPlaneInfo {
  if ((flags & VFIO_GFX_PLANE_TYPE_REGION) === 0) {
    const hint = 'the picture lies in a region, there is no dma-buf';
    throw new SysError({ call: 'VFIO_DEVICE_QUERY_GFX_PLANE', target, errno: errno.EINVAL, hint });
  }
  const none = { ...NO_PLANE, regionIndex };
  const asksOnly = (flags & VFIO_GFX_PLANE_TYPE_PROBE) !== 0;
  if (asksOnly || plane === undefined || drmPlaneType !== DRM_PLANE_TYPE_PRIMARY) return none;
  const { width, height, stride, drmFormat, offset } = plane;
  const size = Math.ceil((height * stride) / PAGE) * PAGE;
  return { ...none, drmFormat, width, height, stride, size, offset };
}
