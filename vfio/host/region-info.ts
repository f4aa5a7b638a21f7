import { mappableBytes } from '../region-layout.js';
import {
  type RegionArea,
  type RegionCapability,
  type RegionInfo,
  VFIO_REGION_INFO_CAP_MSIX_MAPPABLE,
  VFIO_REGION_INFO_CAP_SPARSE_MMAP,
  VFIO_REGION_INFO_CAP_TYPE,
  VFIO_REGION_INFO_FLAG_CAPS,
} from '../uapi.js';
import {
  type ChainedCapability,
  decodeList,
  decodeWithin,
  exactNumber,
  MalformedReply,
  walkCapabilityChain,
} from './capability-chain.js';
import { CapSparseMmap, CapType, RegionInfoStruct, SparseMmapArea } from './structs.js';

/**
 * Decodes the reply of VFIO_DEVICE_GET_REGION_INFO. Ignores unknown capabilities.
 * @throws MalformedReply for a chain that violates the uAPI, a number above 2^53, or an area outside its region
 */
export function decodeRegionInfo(reply: Uint8Array): RegionInfo {
  const fixed = decodeWithin(reply, 0, RegionInfoStruct);
  const size = exactNumber(fixed.size, 'region size');
  const hasChain = (fixed.flags & VFIO_REGION_INFO_FLAG_CAPS) !== 0 && fixed.cap_offset !== 0;
  const chain = hasChain ? walkCapabilityChain(reply, fixed.cap_offset, RegionInfoStruct.size) : [];
  return {
    index: fixed.index,
    flags: fixed.flags,
    size,
    offset: exactNumber(fixed.offset, 'region offset'),
    capabilities: chain.flatMap((capability) => decodeCapability(reply, capability, size)),
  };
}

function decodeCapability(
  reply: Uint8Array,
  { id, at }: ChainedCapability,
  size: number,
): RegionCapability[] {
  switch (id) {
    case VFIO_REGION_INFO_CAP_SPARSE_MMAP: {
      const { nr_areas } = decodeWithin(reply, at, CapSparseMmap);
      const areas = decodeList(reply, at + CapSparseMmap.size, nr_areas, SparseMmapArea);
      return [{ id, areas: areas.map((area) => toArea(area, size)) }];
    }
    case VFIO_REGION_INFO_CAP_TYPE: {
      const { type, subtype } = decodeWithin(reply, at, CapType);
      return [{ id, type, subtype }];
    }
    case VFIO_REGION_INFO_CAP_MSIX_MAPPABLE:
      return [{ id }];
    default:
      return [];
  }
}

/** An area can extend to the end of the region's last page, which the region may use only in part. */
function toArea(area: { offset: bigint; size: bigint }, regionSize: number): RegionArea {
  const offset = exactNumber(area.offset, 'sparse area offset');
  const size = exactNumber(area.size, 'sparse area size');
  if (offset + size > mappableBytes(regionSize)) {
    throw new MalformedReply(`sparse area of ${size} bytes at ${offset} in a region of ${regionSize}`);
  }
  return { offset, size };
}
