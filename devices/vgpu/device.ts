import { createSharedMemory, type SharedMemory } from '../../sys/mapping.js';
import type { DmaLoggingOps, VfioDeviceOps } from '../../vfio/driver.js';
import {
  type GfxPlaneInfo,
  type GfxPlaneQuery,
  type IrqInfo,
  type IrqSet,
  VFIO_PCI_REQ_IRQ_INDEX,
} from '../../vfio/uapi.js';
import { DeviceInterrupts, irqInfo } from '../mdev/device-interrupts.js';
import { NoDmaLog } from '../mdev/no-dma-log.js';
import { PciRegions } from '../mdev/pci-regions.js';
import { type RegionAccess, registerAccess } from '../mdev/region-access.js';
import { RegionOps } from '../mdev/region-ops.js';
import { StopCopyMigration } from '../mdev/stop-copy-migration.js';
import { ConfigSpace } from '../pci/config-space.js';
import {
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
import { EdidRegion, edidRegion, type Resolution } from './edid-region.js';
import { gfxPlane } from './gfx-plane.js';
import { vgpuState } from './saved-state.js';
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
  QEXT_AT,
  QEXT_BIG_ENDIAN,
  QEXT_BYTES,
  QEXT_ENDIAN,
  QEXT_LITTLE_ENDIAN,
  REGISTER_BAR,
  REGISTER_BAR_BYTES,
  REVISION,
  VRAM_BAR,
} from './spec.js';

export interface VgpuOptions {
  readonly name: string;
  /** A power of two, at least 64 KiB. */
  readonly vramBytes: number;
  /** Preferred mode of its screen, pixels. */
  readonly xres: number;
  readonly yres: number;
}

/**
 * A display card for stock Linux's bochs-drm. Its video memory is a memfd that is mapped into the guest, so drawing
 * causes no exits, and captures read the same memory. Machine thread only.
 */
export class VgpuDevice extends RegionOps implements VfioDeviceOps, Disposable {
  readonly name: string;
  readonly migration: StopCopyMigration;
  readonly dmaLogging: DmaLoggingOps;
  protected readonly regions: PciRegions;
  readonly #vram: SharedMemory;
  readonly #dispi: Dispi;
  readonly #mode: Resolution;
  #screen: EdidRegion;
  readonly #interrupts: DeviceInterrupts;

  /** @throws SysError ENOMEM */
  constructor({ name, vramBytes, xres, yres }: VgpuOptions) {
    super();
    this.name = name;
    this.#vram = createSharedMemory('vgpu', vramBytes);
    this.#mode = { xres, yres };
    this.#dispi = new Dispi(vramBytes, this.#mode);
    this.#screen = this.#newScreen();
    const parts = {
      ...{ name, vramBytes, dispi: this.#dispi },
      vram: () => this.vram,
      screen: () => this.#screen,
      setScreen: (screen: EdidRegion) => this.#setScreen(screen),
    };
    this.dmaLogging = new NoDmaLog(name);
    this.migration = new StopCopyMigration(name, vgpuState(parts));
    this.#interrupts = new DeviceInterrupts(name, {}, { retarget: () => {}, maskIntx: () => {} });
    this.regions = new PciRegions(name, {
      config: { create: createConfig },
      bars: [
        { index: VRAM_BAR, size: vramBytes, isPrefetchable: true, memory: this.#vram },
        {
          index: REGISTER_BAR,
          size: REGISTER_BAR_BYTES,
          // The card has no VGA, but drivers may blank it anyway.
          read: (_offset, data) => data.fill(0),
          write: () => {},
          areas: [
            { offset: EDID_AT, size: EDID_BYTES, read: (offset, data) => this.#readEdid(offset, data) },
            { offset: DISPI_AT, size: 2 * DISPI_REGISTERS, ...this.#dispiAccess() },
            { offset: QEXT_AT, size: QEXT_BYTES, ...this.#extensionAccess() },
          ],
        },
      ],
      typed: [edidRegion(() => this.#screen)],
    });
  }

  /** The plane that the card scans out; undefined while it displays nothing. */
  get plane(): Plane | undefined {
    return this.#dispi.plane;
  }

  /** The video memory, which the guest writes at any time; valid until disposal. */
  get vram(): Uint8Array {
    return this.#vram.mapping.view.slice(0, this.#vram.mapping.bytes);
  }

  openDevice(): void {
    this.regions.resetConfig();
    this.#setScreen(this.#newScreen());
    this.reset();
  }

  closeDevice(): void {
    this.migration.reset();
    this.dmaLogging.stop();
    this.#interrupts[Symbol.dispose]();
  }

  /** Resets the registers, and clears video memory so that the next user cannot read it. */
  override reset(): void {
    this.migration.reset();
    this.#dispi.reset();
    this.vram.fill(0);
  }

  getIrqInfo(index: number): IrqInfo {
    return index === VFIO_PCI_REQ_IRQ_INDEX ? irqInfo(index, {}) : { index, flags: 0, count: 0 };
  }

  setIrqs(set: IrqSet): void {
    this.#interrupts.set(set);
  }

  request(): void {
    this.#interrupts.request();
  }

  queryGfxPlane(query: GfxPlaneQuery): GfxPlaneInfo {
    return gfxPlane(this.name, VRAM_BAR, query, this.plane);
  }

  #newScreen(): EdidRegion {
    return new EdidRegion(this.name, createEdid(this.#mode.xres, this.#mode.yres), this.#mode);
  }

  #setScreen(screen: EdidRegion): void {
    this.#screen = screen;
    this.#dispi.limit = screen.limit;
  }

  #readEdid(offset: number, data: Uint8Array): void {
    data.fill(0);
    data.set(this.#screen.edid.subarray(offset, offset + data.length));
  }

  get #endian(): number {
    return this.#dispi.isBigEndian ? QEXT_BIG_ENDIAN : QEXT_LITTLE_ENDIAN;
  }

  /** 16-bit registers; writes of one byte are ignored. */
  #dispiAccess(): RegionAccess {
    return registerAccess(
      {
        read: (at) => this.#dispi.read(at >> 1) >>> (8 * (at & 1)),
        write: (at, bytes, value) => bytes === 2 && this.#dispi.write(at >> 1, value),
      },
      2,
    );
  }

  #extensionAccess(): RegionAccess {
    return registerAccess({
      read: (at) => (at < QEXT_ENDIAN ? QEXT_BYTES : this.#endian) >>> (8 * (at & 3)),
      write: (at, bytes, value) => {
        const isOrder = value === QEXT_LITTLE_ENDIAN || value === QEXT_BIG_ENDIAN;
        if (at === QEXT_ENDIAN && bytes === 4 && isOrder) this.#dispi.isBigEndian = value === QEXT_BIG_ENDIAN;
      },
    });
  }

  /** Frees the video memory. The device must be unregistered. */
  [Symbol.dispose](): void {
    this.migration[Symbol.dispose](); // a stream reads that memory
    this.#vram[Symbol.dispose]();
  }
}

function createConfig(): ConfigSpace {
  const space = new ConfigSpace();
  space.set(PCI_VENDOR_ID, 2, PCI_VENDOR_ID_BOCHS);
  space.set(PCI_DEVICE_ID, 2, PCI_DEVICE_ID_BOCHS_VBE);
  space.set(PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
  space.allow(PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
  space.set(PCI_REVISION_ID, 1, REVISION);
  space.set(PCI_CLASS_DEVICE, 2, PCI_CLASS_DISPLAY_OTHER);
  space.set(PCI_SUBSYSTEM_VENDOR_ID, 2, PCI_VENDOR_ID_REDHAT_QUMRANET);
  space.set(PCI_SUBSYSTEM_ID, 2, PCI_SUBDEVICE_ID_QEMU);
  return space;
}
