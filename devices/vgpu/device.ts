import { PAGE_SIZE } from '../../sys/address.js';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { createSharedMemory, Mapping, type SharedMemory } from '../../sys/mapping.js';
import type { VfioDeviceOps } from '../../vfio/driver.js';
import {
  type DeviceInfo,
  type GfxPlaneInfo,
  type GfxPlaneQuery,
  type IrqInfo,
  type IrqSet,
  type RegionInfo,
  VFIO_DEVICE_FLAGS_PCI,
  VFIO_DEVICE_FLAGS_RESET,
  VFIO_GFX_PLANE_TYPE_PROBE,
  VFIO_GFX_PLANE_TYPE_REGION,
  VFIO_PCI_CONFIG_REGION_INDEX,
  VFIO_PCI_NUM_IRQS,
  VFIO_PCI_NUM_REGIONS,
  VFIO_PCI_REQ_IRQ_INDEX,
  VFIO_REGION_INFO_CAP_TYPE,
  VFIO_REGION_INFO_FLAG_CAPS,
  VFIO_REGION_INFO_FLAG_MMAP,
  VFIO_REGION_INFO_FLAG_READ,
  VFIO_REGION_INFO_FLAG_WRITE,
  VFIO_REGION_SUBTYPE_GFX_EDID,
  VFIO_REGION_TYPE_GFX,
} from '../../vfio/uapi.js';
import { DeviceInterrupts, irqInfo } from '../mdev/device-interrupts.js';
import { addBar } from '../pci/bar.js';
import { ConfigSpace } from '../pci/config-space.js';
import {
  PCI_CFG_SPACE_SIZE,
  PCI_CLASS_DEVICE,
  PCI_COMMAND,
  PCI_COMMAND_MEMORY,
  PCI_DEVICE_ID,
  PCI_REVISION_ID,
  PCI_SUBSYSTEM_ID,
  PCI_SUBSYSTEM_VENDOR_ID,
  PCI_VENDOR_ID,
} from '../pci/pci-regs.js';
import { Dispi, type Plane } from './dispi.js';
import { createEdid } from './edid.js';
import { EDID_REGION_BYTES, EdidRegion } from './edid-region.js';
import {
  DISPI_AT,
  DISPI_REGISTERS,
  EDID_AT,
  EDID_BYTES,
  PCI_CLASS_DISPLAY_OTHER,
  PCI_DEVICE_ID_BOCHS_VBE,
  PCI_SUBDEVICE_ID_QEMU,
  PCI_VENDOR_ID_BOCHS,
  PCI_VENDOR_ID_REDHAT_QUMRANET,
  QEXT_BIG_ENDIAN,
  QEXT_BYTES,
  QEXT_ENDIAN_AT,
  QEXT_LITTLE_ENDIAN,
  QEXT_SIZE_AT,
  REGISTER_BAR,
  REGISTER_BAR_BYTES,
  REVISION,
  VGA_AT,
  VGA_BYTES,
  VRAM_BAR,
} from './spec.js';

const READ_WRITE = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
/** Behind PCI's own regions. */
const EDID_REGION = VFIO_PCI_NUM_REGIONS;
const DRM_PLANE_TYPE_PRIMARY = 1;
const NO_HOT_SPOT = 0xffff_ffff;
const PAGE = Number(PAGE_SIZE);

const NO_PLANE: GfxPlaneInfo = {
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
  regionIndex: VRAM_BAR,
  offset: 0,
};

export interface VgpuOptions {
  readonly name: string;
  /** A power of two, at least 64 KiB. */
  readonly vramBytes: number;
  /** The mode that its screen likes best. */
  readonly xres: number;
  readonly yres: number;
}

/**
 * A display card as stock Linux's bochs-drm drives it. Its memory is one memfd, which is mapped right into the guest: drawing
 * costs no exit, and whoever shows the picture reads the same memory. Machine thread only.
 */
export class VgpuDevice implements VfioDeviceOps, Disposable {
  readonly name: string;
  readonly #vram: SharedMemory;
  readonly #dispi: Dispi;
  readonly #mode: { readonly xres: number; readonly yres: number };
  #screen: EdidRegion;
  readonly #interrupts: DeviceInterrupts;
  #config: ConfigSpace;
  #endian = QEXT_LITTLE_ENDIAN;

  /** @throws SysError ENOMEM */
  constructor({ name, vramBytes, xres, yres }: VgpuOptions) {
    this.name = name;
    this.#vram = createSharedMemory('vgpu', vramBytes);
    this.#dispi = new Dispi(vramBytes, xres, yres);
    this.#mode = { xres, yres };
    this.#screen = this.#newScreen();
    this.#interrupts = new DeviceInterrupts(name, 0, { retarget: () => {}, maskIntx: () => {} });
    this.#config = createConfig(vramBytes);
  }

  /** What is shown now; undefined while there is nothing to show. */
  get plane(): Plane | undefined {
    return this.#dispi.plane;
  }

  /** The video memory, as the guest has it. */
  get vram(): Uint8Array {
    return this.#vram.mapping.view.slice(0, this.#vram.mapping.bytes);
  }

  openDevice(): void {
    this.#config = createConfig(this.#vram.mapping.bytes);
    this.#screen = this.#newScreen();
    this.reset();
  }

  closeDevice(): void {
    this.#interrupts[Symbol.dispose]();
  }

  /** The next user does not see the last one's pictures. */
  reset(): void {
    this.#dispi.reset();
    this.#endian = QEXT_LITTLE_ENDIAN;
    this.vram.fill(0);
  }

  getInfo(): DeviceInfo {
    return {
      flags: VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET,
      numRegions: VFIO_PCI_NUM_REGIONS + 1,
      numIrqs: VFIO_PCI_NUM_IRQS,
    };
  }

  getRegionInfo(index: number): Omit<RegionInfo, 'offset'> {
    const capabilities: [] = [];
    const screen = { type: VFIO_REGION_TYPE_GFX, subtype: VFIO_REGION_SUBTYPE_GFX_EDID };
    switch (index) {
      case VRAM_BAR:
        return {
          index,
          flags: READ_WRITE | VFIO_REGION_INFO_FLAG_MMAP,
          size: this.#vram.mapping.bytes,
          capabilities,
        };
      case REGISTER_BAR:
        return { index, flags: READ_WRITE, size: REGISTER_BAR_BYTES, capabilities };
      case VFIO_PCI_CONFIG_REGION_INDEX:
        return { index, flags: READ_WRITE, size: PCI_CFG_SPACE_SIZE, capabilities };
      case EDID_REGION:
        return {
          index,
          flags: READ_WRITE | VFIO_REGION_INFO_FLAG_CAPS,
          size: EDID_REGION_BYTES,
          capabilities: [{ id: VFIO_REGION_INFO_CAP_TYPE, ...screen }],
        };
      default:
        return { index, flags: 0, size: 0, capabilities };
    }
  }

  getIrqInfo(index: number): IrqInfo {
    return index === VFIO_PCI_REQ_IRQ_INDEX ? irqInfo(index, 0) : { index, flags: 0, count: 0 };
  }

  setIrqs(set: IrqSet): void {
    this.#interrupts.set(set);
  }

  request(): void {
    this.#interrupts.request();
  }

  mmap(_index: number, offset: number, bytes: number): Mapping {
    return Mapping.file(this.#vram.fd, bytes, { offset, target: this.name });
  }

  queryGfxPlane({ flags, drmPlaneType }: GfxPlaneQuery): GfxPlaneInfo {
    const call = 'VFIO_DEVICE_QUERY_GFX_PLANE';
    if ((flags & VFIO_GFX_PLANE_TYPE_REGION) === 0) {
      const hint = 'the picture lies in a region, there is no dma-buf';
      throw new SysError({ call, target: this.name, errno: errno.EINVAL, hint });
    }
    const { plane } = this;
    const asksOnly = (flags & VFIO_GFX_PLANE_TYPE_PROBE) !== 0;
    if (asksOnly || plane === undefined || drmPlaneType !== DRM_PLANE_TYPE_PRIMARY) return NO_PLANE;
    const { width, height, stride, drmFormat, offset } = plane;
    const size = Math.ceil((height * stride) / PAGE) * PAGE;
    return { ...NO_PLANE, drmFormat, width, height, stride, size, offset };
  }

  read(index: number, offset: number, data: Uint8Array): number {
    if (index === VFIO_PCI_CONFIG_REGION_INDEX) this.#config.readBytes(offset, data);
    else if (index === EDID_REGION) this.#screen.read(offset, data);
    else if (!this.#isDecoding()) data.fill(0xff);
    else if (index === VRAM_BAR) data.set(this.vram.subarray(offset, offset + data.length));
    else for (let i = 0; i < data.length; i++) data[i] = this.#readByte(offset + i);
    return data.length;
  }

  write(index: number, offset: number, data: Uint8Array): number {
    if (index === VFIO_PCI_CONFIG_REGION_INDEX) this.#config.writeBytes(offset, data);
    else if (index === EDID_REGION) this.#screen.write(offset, data);
    else if (this.#isDecoding() && index === VRAM_BAR) this.vram.set(data, offset);
    else if (this.#isDecoding()) this.#writeRegister(offset, data);
    return data.length;
  }

  #newScreen(): EdidRegion {
    return new EdidRegion(this.name, createEdid(this.#mode.xres, this.#mode.yres), this.#mode);
  }

  #isDecoding(): boolean {
    return (this.#config.read(PCI_COMMAND, 2) & PCI_COMMAND_MEMORY) !== 0;
  }

  #readByte(at: number): number {
    if (at >= EDID_AT && at < EDID_AT + EDID_BYTES) return this.#screen.edid[at - EDID_AT] ?? 0;
    // There is no VGA, but a driver may blank it all the same.
    if (at >= VGA_AT && at < VGA_AT + VGA_BYTES) return 0;
    if (at >= DISPI_AT && at < DISPI_AT + 2 * DISPI_REGISTERS) {
      const value = this.#dispi.read((at - DISPI_AT) >> 1);
      return (at & 1) === 0 ? value & 0xff : value >> 8;
    }
    if (at >= QEXT_SIZE_AT && at < QEXT_SIZE_AT + QEXT_BYTES) {
      const word = at < QEXT_ENDIAN_AT ? QEXT_BYTES : this.#endian;
      return (word >>> (8 * (at & 3))) & 0xff;
    }
    return 0;
  }

  /** DISPI registers are written whole, and one at a time. */
  #writeRegister(at: number, data: Uint8Array): void {
    const view = new DataView(data.buffer, data.byteOffset, data.length);
    if (at >= DISPI_AT && at < DISPI_AT + 2 * DISPI_REGISTERS && (at & 1) === 0 && data.length === 2)
      this.#dispi.write((at - DISPI_AT) >> 1, view.getUint16(0, true));
    if (at !== QEXT_ENDIAN_AT || data.length !== 4) return;
    const order = view.getUint32(0, true);
    if (order === QEXT_LITTLE_ENDIAN || order === QEXT_BIG_ENDIAN) this.#endian = order;
  }

  /** Frees the video memory. The device has been unregistered before. */
  [Symbol.dispose](): void {
    this.#vram[Symbol.dispose]();
  }
}

function createConfig(vramBytes: number): ConfigSpace {
  const space = new ConfigSpace();
  space.set(PCI_VENDOR_ID, 2, PCI_VENDOR_ID_BOCHS);
  space.set(PCI_DEVICE_ID, 2, PCI_DEVICE_ID_BOCHS_VBE);
  space.set(PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
  space.allow(PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
  space.set(PCI_REVISION_ID, 1, REVISION);
  space.set(PCI_CLASS_DEVICE, 2, PCI_CLASS_DISPLAY_OTHER);
  space.set(PCI_SUBSYSTEM_VENDOR_ID, 2, PCI_VENDOR_ID_REDHAT_QUMRANET);
  space.set(PCI_SUBSYSTEM_ID, 2, PCI_SUBDEVICE_ID_QEMU);
  addBar(space, { index: VRAM_BAR, kind: 'memory32', isPrefetchable: true, size: BigInt(vramBytes) });
  addBar(space, {
    index: REGISTER_BAR,
    kind: 'memory32',
    isPrefetchable: false,
    size: BigInt(REGISTER_BAR_BYTES),
  });
  return space;
}
