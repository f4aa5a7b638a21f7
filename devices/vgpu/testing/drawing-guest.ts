import { groupsOf } from '../../../vfio/interfaces.js';
import type { AssignableDevice, VfioProvider } from '../../../vfio/provider.js';
import {
  type DeviceFile,
  VFIO_GFX_PLANE_TYPE_REGION,
  VFIO_PCI_CONFIG_REGION_INDEX,
  VFIO_TYPE1v2_IOMMU,
} from '../../../vfio/uapi.js';
import { PCI_COMMAND, PCI_COMMAND_MEMORY } from '../../pci/pci-regs.js';
import {
  DISPI_AT,
  REGISTER_BAR,
  VBE_DISPI_ENABLED,
  VBE_DISPI_INDEX_BPP,
  VBE_DISPI_INDEX_ENABLE,
  VBE_DISPI_INDEX_VIRT_WIDTH,
  VBE_DISPI_INDEX_XRES,
  VBE_DISPI_INDEX_YRES,
  VRAM_BAR,
} from '../spec.js';

/** A guest's address space with one display, which it drives as Linux does. */
export class DrawingGuest implements Disposable {
  readonly #open: Disposable[];
  readonly #file: DeviceFile;
  readonly #offset: (index: number) => number;

  constructor(provider: VfioProvider, device: AssignableDevice) {
    const groups = groupsOf(provider);
    const group = groups.openGroup(device.group);
    const container = groups.openContainer();
    group.setContainer(container);
    container.setIommu(VFIO_TYPE1v2_IOMMU);
    this.#file = group.getDeviceFd(device.name);
    this.#open = [this.#file, group, container];
    this.#offset = (index) => this.#file.getRegionInfo(index).offset;
    this.#write(VFIO_PCI_CONFIG_REGION_INDEX, PCI_COMMAND, PCI_COMMAND_MEMORY);
  }

  /** Sets a mode and fills its picture: each pixel follows from its place and the seed. */
  draw(width: number, height: number, seed: number): void {
    for (const [index, value] of [
      [VBE_DISPI_INDEX_ENABLE, 0],
      [VBE_DISPI_INDEX_BPP, 32],
      [VBE_DISPI_INDEX_XRES, width],
      [VBE_DISPI_INDEX_YRES, height],
      [VBE_DISPI_INDEX_VIRT_WIDTH, width],
      [VBE_DISPI_INDEX_ENABLE, VBE_DISPI_ENABLED | 0x40],
    ] as const)
      this.#write(REGISTER_BAR, DISPI_AT + 2 * index, value);
    using memory = this.#map(4 * width * height);
    const pixels = words(memory.view.slice(0, 4 * width * height));
    for (let at = 0; at < pixels.length; at++) pixels[at] = pixelAt(at, seed);
  }

  /** As a VMM does before it gives the card back. */
  reset(): void {
    this.#file.reset();
  }

  /** The pixels that are shown, through the plane that the host queries. */
  picture(): Uint32Array {
    const plane = this.#file.queryGfxPlane?.({ flags: VFIO_GFX_PLANE_TYPE_REGION, drmPlaneType: 1 });
    if (plane?.regionIndex !== VRAM_BAR) throw new RangeError('it shows nothing');
    using memory = this.#map(plane.offset + plane.size);
    return words(memory.view.slice(plane.offset, plane.stride * plane.height)).slice();
  }

  /** Whether all of its video memory is zero. */
  isClean(): boolean {
    const bytes = Number(this.#file.getRegionInfo(VRAM_BAR).size);
    using memory = this.#map(bytes);
    return Buffer.compare(memory.view.slice(0, bytes), new Uint8Array(bytes)) === 0;
  }

  #map(bytes: number) {
    return this.#file.mmap(this.#offset(VRAM_BAR), Math.ceil(bytes / 4096) * 4096);
  }

  #write(region: number, at: number, value: number): void {
    this.#file.write(this.#offset(region) + at, Uint8Array.of(value & 0xff, value >> 8));
  }

  [Symbol.dispose](): void {
    for (const each of this.#open) each[Symbol.dispose]();
  }
}

const words = (bytes: Uint8Array<ArrayBuffer>) =>
  new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
/** What {@link DrawingGuest.draw} gives a pixel. */
export const pixelAt = (at: number, seed: number): number =>
  (Math.imul(at + 1, 0x9e37_79b1) ^ Math.imul(seed, 0x85eb_ca6b)) >>> 0;

/** Whether a guest's display shows what {@link DrawingGuest.draw} drew, in every pixel. */
export function shows(guest: DrawingGuest, pixels: number, seed: number): boolean {
  const picture = guest.picture();
  return picture.length === pixels && picture.every((pixel, at) => pixel === pixelAt(at, seed));
}
