import type { ConfigRegion } from '../mdev/pci-regions.js';
import { ConfigSpace } from '../pci/config-space.js';
import { msixCapability } from '../pci/msix-capability.js';
import {
  PCI_CACHE_LINE_SIZE,
  PCI_CAP_ID_MSIX,
  PCI_CAP_ID_VNDR,
  PCI_CLASS_DEVICE,
  PCI_COMMAND,
  PCI_COMMAND_INTX_DISABLE,
  PCI_COMMAND_MASTER,
  PCI_COMMAND_MEMORY,
  PCI_DEVICE_ID,
  PCI_INTERRUPT_LINE,
  PCI_INTERRUPT_PIN,
  PCI_MSIX_FLAGS,
  PCI_MSIX_FLAGS_ENABLE,
  PCI_REVISION_ID,
  PCI_STATUS,
  PCI_STATUS_CAP_LIST,
  PCI_STATUS_INTERRUPT,
  PCI_SUBSYSTEM_ID,
  PCI_SUBSYSTEM_VENDOR_ID,
  PCI_VENDOR_ID,
} from '../pci/pci-regs.js';
import {
  VIRTIO_PCI_CAP_COMMON_CFG,
  VIRTIO_PCI_CAP_DEVICE_CFG,
  VIRTIO_PCI_CAP_ISR_CFG,
  VIRTIO_PCI_CAP_NOTIFY_CFG,
  VIRTIO_PCI_CAP_PCI_CFG,
} from './spec.js';

const PCI_VENDOR_ID_REDHAT_QUMRANET = 0x1af4;
/** A device ID is this and the virtio device type. 4.1.2 */
const FIRST_DEVICE_ID = 0x1040;

export const MSIX_BAR = 1;
export const MSIX_BAR_BYTES = 0x1000;
const MSIX_PBA_AT = 0x800;

export const REGISTER_BAR = 4;
export const REGISTER_BAR_BYTES = 0x4000;
/** Each of the four structures has a page. */
export const STRUCTURE_BYTES = 0x1000;
export const COMMON_AT = 0x0000;
export const ISR_AT = 0x1000;
export const DEVICE_AT = 0x2000;
export const NOTIFY_AT = 0x3000;
export const NOTIFY_OFF_MULTIPLIER = 4;

// struct virtio_pci_cap, 4.1.4, after the id and the next pointer
const CAP_BYTES = 16;
const CAP_BAR = 4;
const CAP_OFFSET = 8;
const CAP_LENGTH = 12;
/** pci_cfg_data of the last structure. */
const CAP_DATA = 16;

/** What a kind of device is to PCI. */
export interface VirtioIdentity {
  /** Virtio device type. 5 */
  readonly type: number;
  /** Base class and subclass. */
  readonly pciClass: number;
}

/** The device that owns the configuration space. */
export interface ConfigOwner {
  isMsixEnabled(): boolean;
  /** Whether the INTx pin is asserted. */
  isIntxPending(): boolean;
  /** Accesses BAR 4 for a driver that can only access configuration space. */
  accessRegisters(offset: number, data: Uint8Array, isWrite: boolean): void;
  /** Called after each write of the guest, which may have changed PCI_COMMAND. */
  followCommand(): void;
  reportMisuse(what: string): void;
}

function virtioCapability(type: number, offset: number, bytes: number, extra: readonly number[]): Uint8Array {
  const body = new Uint8Array(CAP_BYTES - 2 + 4 * extra.length);
  const view = new DataView(body.buffer);
  body[0] = CAP_BYTES + 4 * extra.length;
  body[1] = type;
  body[CAP_BAR - 2] = bytes === 0 ? 0 : REGISTER_BAR;
  for (const [i, word] of [offset, bytes, ...extra].entries())
    view.setUint32(CAP_OFFSET - 2 + 4 * i, word, true);
  return body;
}

/**
 * The function's configuration space, with vfio-pci's initial state: memory decoding enabled, bus mastering disabled.
 * Its MSI-X control follows VFIO_DEVICE_SET_IRQS.
 */
export class VirtioConfigSpace implements ConfigRegion {
  readonly #identity: VirtioIdentity;
  readonly #vectors: number;
  readonly #owner: ConfigOwner;
  #msixAt = 0;
  #pciCfgAt = 0;

  /** @param vectors of MSI-X */
  constructor(identity: VirtioIdentity, vectors: number, owner: ConfigOwner) {
    this.#identity = identity;
    this.#vectors = vectors;
    this.#owner = owner;
  }

  create(): ConfigSpace {
    const space = new ConfigSpace();
    const { type, pciClass } = this.#identity;
    space.set(PCI_VENDOR_ID, 2, PCI_VENDOR_ID_REDHAT_QUMRANET);
    space.set(PCI_DEVICE_ID, 2, FIRST_DEVICE_ID + type);
    space.set(PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    space.allow(PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE);
    // 4.1.2.1: a non-transitional device has revision 1 or higher, and a subsystem id of 0x40 or higher.
    space.set(PCI_REVISION_ID, 1, 1);
    space.set(PCI_CLASS_DEVICE, 2, pciClass);
    space.allow(PCI_CACHE_LINE_SIZE, 1, 0xff);
    space.set(PCI_SUBSYSTEM_VENDOR_ID, 2, PCI_VENDOR_ID_REDHAT_QUMRANET);
    space.set(PCI_SUBSYSTEM_ID, 2, FIRST_DEVICE_ID + type);
    space.allow(PCI_INTERRUPT_LINE, 1, 0xff);
    space.set(PCI_INTERRUPT_PIN, 1, 1);

    this.#msixAt = space.addCapability(
      PCI_CAP_ID_MSIX,
      msixCapability(this.#vectors, { bar: MSIX_BAR, offset: 0 }, { bar: MSIX_BAR, offset: MSIX_PBA_AT }),
    );
    const add = (type: number, offset: number, bytes: number, ...extra: number[]) =>
      space.addCapability(PCI_CAP_ID_VNDR, virtioCapability(type, offset, bytes, extra));
    add(VIRTIO_PCI_CAP_COMMON_CFG, COMMON_AT, STRUCTURE_BYTES);
    add(VIRTIO_PCI_CAP_ISR_CFG, ISR_AT, STRUCTURE_BYTES);
    add(VIRTIO_PCI_CAP_DEVICE_CFG, DEVICE_AT, STRUCTURE_BYTES);
    add(VIRTIO_PCI_CAP_NOTIFY_CFG, NOTIFY_AT, STRUCTURE_BYTES, NOTIFY_OFF_MULTIPLIER);
    this.#pciCfgAt = add(VIRTIO_PCI_CAP_PCI_CFG, 0, 0, 0);
    // The driver writes the BAR, offset and length of an access there. 4.1.4.9
    space.allow(this.#pciCfgAt + CAP_BAR, 1, 0xff);
    for (const at of [CAP_OFFSET, CAP_LENGTH, CAP_DATA]) space.allow(this.#pciCfgAt + at, 4, 0xffffffff);
    return space;
  }

  beforeRead(space: ConfigSpace, offset: number, bytes: number): void {
    const msixControl = (this.#vectors - 1) | (this.#owner.isMsixEnabled() ? PCI_MSIX_FLAGS_ENABLE : 0);
    space.set(this.#msixAt + PCI_MSIX_FLAGS, 2, msixControl);
    space.set(PCI_STATUS, 2, PCI_STATUS_CAP_LIST | (this.#owner.isIntxPending() ? PCI_STATUS_INTERRUPT : 0));
    if (this.#touchesData(offset, bytes)) this.#access(space, false);
  }

  afterWrite(space: ConfigSpace, offset: number, bytes: number): void {
    if (this.#touchesData(offset, bytes)) this.#access(space, true);
    this.#owner.followCommand();
  }

  #touchesData(offset: number, bytes: number): boolean {
    const at = this.#pciCfgAt + CAP_DATA;
    return offset < at + 4 && offset + bytes > at;
  }

  /** Performs the access to BAR 4 that the capability describes, through pci_cfg_data. */
  #access(space: ConfigSpace, isWrite: boolean): void {
    const bar = space.read(this.#pciCfgAt + CAP_BAR, 1);
    const offset = space.read(this.#pciCfgAt + CAP_OFFSET, 4);
    const length = space.read(this.#pciCfgAt + CAP_LENGTH, 4);
    const isWidth = length === 1 || length === 2 || length === 4;
    if (bar !== REGISTER_BAR || !isWidth || offset % length !== 0 || offset >= REGISTER_BAR_BYTES) {
      this.#owner.reportMisuse(
        `access to ${length} bytes at 0x${offset.toString(16)} of BAR ${bar} by configuration space`,
      );
      return;
    }
    const at = this.#pciCfgAt + CAP_DATA;
    this.#owner.accessRegisters(offset, space.values.subarray(at, at + length), isWrite);
  }
}
