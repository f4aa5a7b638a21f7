import { PCI_DEVICE_ID, PCI_VENDOR_ID } from '../../devices/pci/pci-regs.js';
import { planeOf } from '../../devices/vgpu/dispi.js';
import { gfxPlane } from '../../devices/vgpu/gfx-plane.js';
import {
  DISPI_AT,
  DISPI_REGISTERS,
  PCI_DEVICE_ID_BOCHS_VBE,
  PCI_VENDOR_ID_BOCHS,
  REGISTER_BAR,
  VRAM_BAR,
} from '../../devices/vgpu/spec.js';
import { DRM_PLANE_TYPE_PRIMARY } from '../../vfio/drm.js';
import {
  type DeviceFile,
  type GfxPlaneInfo,
  VFIO_DEVICE_FLAGS_PCI,
  VFIO_GFX_PLANE_TYPE_REGION,
  VFIO_PCI_CONFIG_REGION_INDEX,
} from '../../vfio/uapi.js';

const QUERY = { flags: VFIO_GFX_PLANE_TYPE_REGION, drmPlaneType: DRM_PLANE_TYPE_PRIMARY };

/**
 * A bochs-display of which the picture is found without the device's help: it lies in BAR 0, where the registers in BAR 2 say. For a
 * device that exports its pictures only in dma-bufs that cannot be mapped, as the kernel's mbochs. Machine thread only; borrows the
 * device's file.
 */
export class BochsDisplay {
  readonly #file: DeviceFile;
  readonly #name: string;

  private constructor(file: DeviceFile, name: string) {
    this.#file = file;
    this.#name = name;
  }

  /** Undefined for a device that is none. @throws SysError of its calls */
  static find(file: DeviceFile, name: string): BochsDisplay | undefined {
    const { flags, numRegions } = file.getInfo();
    if ((flags & VFIO_DEVICE_FLAGS_PCI) === 0 || numRegions <= VFIO_PCI_CONFIG_REGION_INDEX) return undefined;
    const { offset } = file.getRegionInfo(VFIO_PCI_CONFIG_REGION_INDEX);
    const isBochs =
      readWord(file, offset + PCI_VENDOR_ID) === PCI_VENDOR_ID_BOCHS &&
      readWord(file, offset + PCI_DEVICE_ID) === PCI_DEVICE_ID_BOCHS_VBE &&
      file.getRegionInfo(REGISTER_BAR).size >= DISPI_AT + 2 * DISPI_REGISTERS;
    return isBochs ? new BochsDisplay(file, name) : undefined;
  }

  /**
   * What the guest shows now, as a plane within BAR 0, in the form of VFIO_DEVICE_QUERY_GFX_PLANE: a format of 0 if its registers define
   * none, or one that extends past the BAR. @throws SysError of pread(2)
   */
  plane(): GfxPlaneInfo {
    const { size } = this.#file.getRegionInfo(VRAM_BAR);
    const { offset } = this.#file.getRegionInfo(REGISTER_BAR);
    const plane = planeOf((index) => readWord(this.#file, offset + DISPI_AT + 2 * index), size);
    return gfxPlane(this.#name, VRAM_BAR, QUERY, plane);
  }
}

/** A register of 16 bits: mbochs answers no other size. */
function readWord(file: DeviceFile, at: number): number {
  const word = new Uint8Array(2);
  file.read(at, word);
  return new DataView(word.buffer).getUint16(0, true);
}
