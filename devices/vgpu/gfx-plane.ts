import { PAGE_SIZE } from '../../sys/address.js';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { DRM_PLANE_TYPE_CURSOR, DRM_PLANE_TYPE_PRIMARY } from '../../vfio/drm.js';
import {
  type GfxPlaneInfo,
  type GfxPlaneQuery,
  VFIO_GFX_PLANE_TYPE_PROBE,
  VFIO_GFX_PLANE_TYPE_REGION,
} from '../../vfio/uapi.js';
import type { Plane } from './dispi.js';

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

/** A cursor as a plane. */
export type CursorPlane = Omit<GfxPlaneInfo, 'regionIndex' | 'drmFormatMod'>;

/** @throws SysError EINVAL unless a query is for planes in a region, which are all that there are */
function requireRegionType(target: string, { flags }: GfxPlaneQuery): void {
  if ((flags & VFIO_GFX_PLANE_TYPE_REGION) !== 0) return;
  throw refusal(target, 'the picture lies in a region, there is no dma-buf');
}

/**
 * VFIO_DEVICE_QUERY_GFX_PLANE of a card with a primary plane in a region, and perhaps a cursor.
 * @param cursor without what says where it is
 * @throws SysError EINVAL for planes of another type
 */
export function gfxPlane(
  target: string,
  regionIndex: number,
  query: GfxPlaneQuery,
  plane: Plane | undefined,
  cursor?: CursorPlane,
): GfxPlaneInfo {
  requireRegionType(target, query);
  const { flags, drmPlaneType } = query;
  const none = { ...NO_PLANE, regionIndex };
  if ((flags & VFIO_GFX_PLANE_TYPE_PROBE) !== 0) return none;
  if (drmPlaneType === DRM_PLANE_TYPE_CURSOR && cursor !== undefined) return { ...none, ...cursor };
  if (plane === undefined || drmPlaneType !== DRM_PLANE_TYPE_PRIMARY) return none;
  const { width, height, stride, drmFormat, offset } = plane;
  const size = Math.ceil((height * stride) / PAGE) * PAGE;
  return { ...none, drmFormat, width, height, stride, size, offset };
}

const refusal = (target: string, hint: string): SysError =>
  new SysError({ call: 'VFIO_DEVICE_QUERY_GFX_PLANE', target, errno: errno.EINVAL, hint });
