/** A scripted network card with every feature a card can have, for tests. */
import {
  type RegionIoEventFd,
  VFIO_IRQ_INFO_AUTOMASKED,
  VFIO_IRQ_INFO_EVENTFD,
  VFIO_IRQ_INFO_MASKABLE,
  VFIO_IRQ_INFO_NORESIZE,
  VFIO_PCI_ERR_IRQ_INDEX,
  VFIO_PCI_INTX_IRQ_INDEX,
  VFIO_PCI_MSI_IRQ_INDEX,
  VFIO_PCI_MSIX_IRQ_INDEX,
  VFIO_PCI_REQ_IRQ_INDEX,
  VFIO_PCI_ROM_REGION_INDEX,
  VFIO_REGION_INFO_FLAG_MMAP,
  VFIO_REGION_INFO_FLAG_READ,
  VFIO_REGION_INFO_FLAG_WRITE,
} from '../../vfio/uapi.js';
import { addBar, type BarShape } from '../pci/bar.js';
import { ConfigSpace } from '../pci/config-space.js';
import {
  PCI_CAP_ID_EXP,
  PCI_CAP_ID_MSI,
  PCI_CAP_ID_MSIX,
  PCI_CAP_ID_PM,
  PCI_CLASS_DEVICE,
  PCI_COMMAND,
  PCI_DEVICE_ID,
  PCI_EXT_CAP_ID_ARI,
  PCI_EXT_CAP_ID_DSN,
  PCI_EXT_CAP_ID_ERR,
  PCI_EXT_CAP_ID_SRIOV,
  PCI_HEADER_TYPE,
  PCI_INTERRUPT_PIN,
  PCI_SUBSYSTEM_ID,
  PCI_SUBSYSTEM_VENDOR_ID,
  PCI_VENDOR_ID,
} from '../pci/pci-regs.js';
import { ScriptedDevice, type ScriptedDeviceInit } from '../testing/scripted-device.js';

/** Offsets of the capabilities of {@link createScriptedNic}. */
export const nicOffsets = { pm: 0x40, msi: 0x48, exp: 0x60, msix: 0x9c, sriov: 0x160 } as const;
/** Its MSI-X table and PBA, both in BAR4. */
export const nicMsix = { bar: 4, table: 0x2000, pba: 0x3000, vectors: 5 } as const;

export const nicBars: readonly BarShape[] = [
  { index: 0, kind: 'memory32', isPrefetchable: false, size: 0x8000n },
  { index: 2, kind: 'io', isPrefetchable: false, size: 32n },
  { index: 4, kind: 'memory64', isPrefetchable: true, size: 0x4000n },
];
export const NIC_ROM_BYTES = 0x10000;

export interface ScriptedNicOptions {
  /** In BAR4. */
  readonly ioFds?: readonly RegionIoEventFd[];
  /** MSI-X vectors can be added after enable. */
  readonly isDynamic?: boolean;
  readonly init?: Partial<ScriptedDeviceInit>;
}

function nicConfig(): Uint8Array<ArrayBuffer> {
  const space = new ConfigSpace(4096);
  space.set(PCI_VENDOR_ID, 2, 0x8086);
  space.set(PCI_DEVICE_ID, 2, 0x10d3);
  space.set(PCI_COMMAND, 2, 0x0007);
  space.set(PCI_CLASS_DEVICE, 2, 0x0200);
  space.set(PCI_HEADER_TYPE, 1, 0x80);
  space.set(PCI_SUBSYSTEM_VENDOR_ID, 2, 0x8086);
  space.set(PCI_SUBSYSTEM_ID, 2, 0xa01f);
  space.set(PCI_INTERRUPT_PIN, 1, 1);
  for (const bar of nicBars) addBar(space, bar);

  const words = (...values: number[]): Uint8Array => new Uint8Array(new Uint16Array(values).buffer);
  space.addCapability(PCI_CAP_ID_PM, words(0xc803, 0x0003, 0), nicOffsets.pm);
  // Four messages, 64-bit, maskable.
  space.addCapability(PCI_CAP_ID_MSI, words(0x0184, ...new Array(10).fill(0)), nicOffsets.msi);
  const express = new Uint8Array(0x3a);
  const view = new DataView(express.buffer);
  view.setUint16(0, 0x0002, true); // version 2, endpoint
  view.setUint32(2, 0x10008fc1, true); // device capabilities, with FLR
  view.setUint16(6, 0x2810, true);
  view.setUint32(0x0a, 0x00046c11, true); // link capabilities: x1, 2.5 GT/s
  view.setUint16(0x10, 0x1011, true);
  view.setUint32(0x22, 0x0000001f, true);
  space.addCapability(PCI_CAP_ID_EXP, express, nicOffsets.exp);
  const { bar, table, pba, vectors } = nicMsix;
  const msix = words(vectors - 1, table | bar, 0, pba | bar, 0);
  space.addCapability(PCI_CAP_ID_MSIX, msix, nicOffsets.msix);
  space.addExtendedCapability(PCI_EXT_CAP_ID_ERR, 1, new Uint8Array(0x44));
  space.addExtendedCapability(
    PCI_EXT_CAP_ID_DSN,
    1,
    new Uint8Array([0xef, 0xbe, 0xad, 0xff, 0xff, 0, 0x1b, 0x21]),
  );
  space.addExtendedCapability(PCI_EXT_CAP_ID_ARI, 1, new Uint8Array(0x08));
  space.addExtendedCapability(PCI_EXT_CAP_ID_SRIOV, 1, new Uint8Array(0x3c).fill(0x11));
  return space.values;
}

/** BAR0 can be mapped, and BAR4 except the MSI-X table; it has a ROM and all five kinds of interrupts. */
export function createScriptedNic(options: ScriptedNicOptions = {}): ScriptedDevice {
  const flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
  const message = VFIO_IRQ_INFO_EVENTFD | (options.isDynamic ? 0 : VFIO_IRQ_INFO_NORESIZE);
  return new ScriptedDevice({
    config: nicConfig(),
    regions: {
      0: { size: 0x8000, flags: flags | VFIO_REGION_INFO_FLAG_MMAP },
      2: { size: 32, flags },
      4: { size: 0x4000, flags: flags | VFIO_REGION_INFO_FLAG_MMAP, ioFds: options.ioFds ?? [] },
      [VFIO_PCI_ROM_REGION_INDEX]: { size: NIC_ROM_BYTES, flags: VFIO_REGION_INFO_FLAG_READ },
    },
    irqs: {
      [VFIO_PCI_INTX_IRQ_INDEX]: {
        count: 1,
        flags: VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED,
      },
      [VFIO_PCI_MSI_IRQ_INDEX]: { count: 4, flags: VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_NORESIZE },
      [VFIO_PCI_MSIX_IRQ_INDEX]: { count: nicMsix.vectors, flags: message },
      [VFIO_PCI_ERR_IRQ_INDEX]: { count: 1 },
      [VFIO_PCI_REQ_IRQ_INDEX]: { count: 1 },
    },
    ...options.init,
  });
}
