import type { Fd } from '../../sys/fd.js';
import type { RegionIoEventFd } from '../../vfio/uapi.js';
import { PciRegions, type RegisterArea, type TypedRegion } from '../mdev/pci-regions.js';
import { type Registers, registerAccess } from '../mdev/region-access.js';
import { allOnes } from '../pci/config-space.js';
import { PCI_MSIX_ENTRY_SIZE } from '../pci/pci-regs.js';
import type { CommonConfig } from './common-config.js';
import {
  COMMON_AT,
  DEVICE_AT,
  ISR_AT,
  MSIX_BAR,
  MSIX_BAR_BYTES,
  NOTIFY_AT,
  NOTIFY_OFF_MULTIPLIER,
  REGISTER_BAR,
  REGISTER_BAR_BYTES,
  STRUCTURE_BYTES,
  type VirtioConfigSpace,
} from './config-space.js';
import type { TransportState } from './transport-state.js';

/** What the regions of a virtio PCI function lead to. */
export interface VirtioRegisters {
  readonly name: string;
  readonly config: VirtioConfigSpace;
  readonly state: TransportState;
  readonly common: CommonConfig;
  /** Device configuration structure. */
  readonly device: Registers;
  /** One eventfd per queue. */
  readonly doorbells: readonly Fd[];
  /** Device-specific regions; none if absent. */
  readonly typed?: readonly TypedRegion[];
  /** A queue's doorbell has been rung by a trapped write. */
  readonly ring: (queue: number) => void;
}

/** The regions of a virtio PCI function: configuration space, the MSI-X page and the structures of 4.1.4. */
export function virtioRegions(parts: VirtioRegisters): PciRegions {
  const { state } = parts;
  /** The pending bits follow the MSI-X table. */
  const tableBytes = state.vectorCount * PCI_MSIX_ENTRY_SIZE;
  const structure = (offset: number, registers: Registers): RegisterArea => ({
    offset,
    size: STRUCTURE_BYTES,
    ...registerAccess(registers),
  });
  const isr = { read: (at: number, bytes: number) => (at === 0 ? state.takeIsr() : allOnes(bytes)) };
  const notify = { write: (at: number) => parts.ring(Math.floor(at / NOTIFY_OFF_MULTIPLIER)) };
  return new PciRegions(parts.name, {
    config: parts.config,
    bars: [
      {
        index: MSIX_BAR,
        size: MSIX_BAR_BYTES,
        // As in vfio-pci: the table reads all-ones, the pending bits that follow read 0.
        read: (at, data) => data.fill(0, Math.min(data.length, Math.max(0, tableBytes - at))),
        write: () => {}, // dropped: users set vectors with VFIO_DEVICE_SET_IRQS
      },
      {
        index: REGISTER_BAR,
        kind: 'memory64',
        isPrefetchable: true,
        size: REGISTER_BAR_BYTES,
        areas: [
          structure(COMMON_AT, parts.common),
          structure(ISR_AT, isr),
          structure(DEVICE_AT, parts.device),
          { ...structure(NOTIFY_AT, notify), ioFds: parts.doorbells.map(toIoFd) },
        ],
      },
    ],
    ...(parts.typed === undefined ? {} : { typed: parts.typed }),
  });
}

const toIoFd = ({ number }: Fd, queue: number): RegionIoEventFd => ({
  offset: NOTIFY_OFF_MULTIPLIER * queue,
  size: NOTIFY_OFF_MULTIPLIER,
  fd: number,
});
