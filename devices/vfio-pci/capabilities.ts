/** The device's capability lists, and which capabilities a guest may see. */
import {
  PCI_CAP_ID_EA,
  PCI_CAPABILITY_LIST,
  PCI_CFG_SPACE_EXP_SIZE,
  PCI_CFG_SPACE_SIZE,
  PCI_EXT_CAP_ID_ARI,
  PCI_EXT_CAP_ID_ATS,
  PCI_EXT_CAP_ID_DSN,
  PCI_EXT_CAP_ID_DVSEC,
  PCI_EXT_CAP_ID_ERR,
  PCI_EXT_CAP_ID_PASID,
  PCI_EXT_CAP_ID_PRI,
  PCI_EXT_CAP_ID_REBAR,
  PCI_EXT_CAP_ID_SRIOV,
  PCI_EXT_CAP_ID_VNDR,
  PCI_STATUS,
  PCI_STATUS_CAP_LIST,
  PCI_STD_HEADER_SIZEOF,
} from '../pci/pci-regs.js';

/** One entry of a capability list. */
export interface Capability {
  readonly id: number;
  readonly offset: number;
  /** Version; extended capabilities only. */
  readonly version: number;
}

/** Reads 1, 2 or 4 bytes of the device's configuration space. */
export type ConfigReader = (offset: number, bytes: 1 | 2 | 4) => number;

/** The capabilities below 0x100, in list order. Stops at a cycle or an invalid pointer. */
export function walkCapabilities(read: ConfigReader): Capability[] {
  if ((read(PCI_STATUS, 2) & PCI_STATUS_CAP_LIST) === 0) return [];
  const found = new Map<number, Capability>();
  let offset = read(PCI_CAPABILITY_LIST, 1) & 0xfc;
  while (offset >= PCI_STD_HEADER_SIZEOF && !found.has(offset)) {
    const header = read(offset, 2);
    if (header === 0xffff) break;
    found.set(offset, { id: header & 0xff, offset, version: 0 });
    offset = (header >> 8) & 0xfc;
  }
  return [...found.values()];
}

/** The extended capabilities, in list order. Like {@link walkCapabilities}. */
export function walkExtendedCapabilities(read: ConfigReader): Capability[] {
  const found = new Map<number, Capability>();
  let offset = PCI_CFG_SPACE_SIZE;
  while (offset >= PCI_CFG_SPACE_SIZE && offset < PCI_CFG_SPACE_EXP_SIZE && !found.has(offset)) {
    const header = read(offset, 4);
    if (header === 0 || header === 0xffffffff) break;
    found.set(offset, { id: header & 0xffff, offset, version: (header >>> 16) & 0xf });
    offset = (header >>> 20) & 0xffc;
  }
  return [...found.values()];
}

/**
 * End of a hidden capability: the next capability, hidden or not. Its length is not always known, and the bytes up to
 * the next one may belong to it.
 */
export function endOf(capability: Capability, all: readonly Capability[], end: number): number {
  let next = end;
  for (const { offset } of all) if (offset > capability.offset && offset < next) next = offset;
  return next;
}

/** Standard capabilities that would expose the host's configuration. */
const hiddenIds: ReadonlyMap<number, string> = new Map([
  [PCI_CAP_ID_EA, 'Enhanced Allocation: holds host addresses'],
]);

/** Extended capabilities whose meaning is the same in a guest; all others are hidden. */
const visibleExtendedIds: ReadonlySet<number> = new Set([
  PCI_EXT_CAP_ID_ERR,
  PCI_EXT_CAP_ID_DSN,
  PCI_EXT_CAP_ID_VNDR,
  PCI_EXT_CAP_ID_DVSEC,
]);

const extendedNames: ReadonlyMap<number, string> = new Map([
  [PCI_EXT_CAP_ID_ARI, 'ARI: the guest numbers functions itself'],
  [PCI_EXT_CAP_ID_ATS, 'ATS: the guest has no IOMMU'],
  [PCI_EXT_CAP_ID_SRIOV, 'SR-IOV: virtual functions belong to the host'],
  [PCI_EXT_CAP_ID_PRI, 'PRI: the guest has no IOMMU'],
  [PCI_EXT_CAP_ID_REBAR, 'Resizable BAR: the size is fixed by the region'],
  [PCI_EXT_CAP_ID_PASID, 'PASID: the guest has no IOMMU'],
]);

/** Why a standard capability is hidden; undefined if it is visible. */
export const hiddenReason = (id: number): string | undefined => hiddenIds.get(id);

/** Why an extended capability is hidden; undefined if it is visible. */
export function hiddenExtendedReason(id: number): string | undefined {
  if (visibleExtendedIds.has(id)) return undefined;
  return extendedNames.get(id) ?? `extended capability 0x${id.toString(16)}: not known to be safe in a guest`;
}
