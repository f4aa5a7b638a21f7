import { gpa } from '../../sys/address.js';
import { isErrno } from '../../sys/error.js';
import type { KvmPointer, OpenDevice, VfioDeviceOps } from '../../vfio/driver.js';
import { DRM_FORMAT_RGB565, DRM_FORMAT_XRGB8888 } from '../../vfio/drm.js';
import { type NotifierSteps, VFIO_GROUP_NOTIFY, VFIO_GROUP_NOTIFY_SET_KVM } from '../../vfio/group-notify.js';
import {
  type GfxPlaneInfo,
  type GfxPlaneQuery,
  type IrqInfo,
  type IrqSet,
  VFIO_PCI_MSI_IRQ_INDEX,
  VFIO_PCI_REQ_IRQ_INDEX,
} from '../../vfio/uapi.js';
import { DeviceInterrupts, irqInfo } from '../mdev/device-interrupts.js';
import { createMessageSignals, MessageSignals } from '../mdev/message-signals.js';
import { PciRegions } from '../mdev/pci-regions.js';
import { registerAccess } from '../mdev/region-access.js';
import { RegionOps } from '../mdev/region-ops.js';
import type { Plane } from '../vgpu/dispi.js';
import { createEdid } from '../vgpu/edid.js';
import { EdidRegion, edidRegion } from '../vgpu/edid-region.js';
import { gfxPlane } from '../vgpu/gfx-plane.js';
import { createGttConfig } from './config-space.js';
import { FollowedTable } from './followed-table.js';
import {
  APERTURE_BAR,
  CONTROL_DISPLAY,
  CONTROL_GTT,
  ID,
  MOST_ENTRIES,
  REG_BAD_ENTRIES,
  REG_BASE,
  REG_CONTROL,
  REG_FLIP,
  REG_FORMAT,
  REG_GTT_BASE_HI,
  REG_GTT_BASE_LO,
  REG_GTT_ENTRIES,
  REG_ID,
  REG_SHOWN,
  REG_SIZE,
  REG_STATUS,
  REG_STRIDE,
  REG_UPDATES,
  REGISTER_BAR,
  REGISTER_BAR_BYTES,
  STATUS_BAD_PICTURE,
  STATUS_BAD_TABLE,
  STATUS_NO_KVM,
  STATUS_READY,
} from './spec.js';

const PAGE = 4096;
const MODE = { xres: 1024, yres: 768 };
/** Those that keep what is written. */
const KEPT: ReadonlySet<number> = new Set([
  REG_CONTROL,
  REG_GTT_BASE_LO,
  REG_GTT_BASE_HI,
  REG_GTT_ENTRIES,
  REG_BASE,
  REG_STRIDE,
  REG_SIZE,
  REG_FORMAT,
]);
const PIXEL_BYTES: ReadonlyMap<number, number> = new Map([
  [DRM_FORMAT_XRGB8888, 4],
  [DRM_FORMAT_RGB565, 2],
]);

/** The display registers as a flip has latched them. */
interface Picture {
  readonly base: number;
  readonly stride: number;
  readonly size: number;
  readonly format: number;
}

/**
 * A display card without memory of its own: its pictures lie in guest memory, in pages that a translation table maps, which
 * lies in guest memory, too. The card shadows the table: it tracks the guest's writes through the VM's pointer. Without one
 * (STATUS_NO_KVM) it shows nothing. Machine thread only.
 */
export class VgpuGttDevice extends RegionOps implements VfioDeviceOps {
  readonly name: string;
  protected readonly regions: PciRegions;
  readonly #table: FollowedTable;
  readonly #signals = new MessageSignals(createMessageSignals());
  readonly #interrupts: DeviceInterrupts;
  readonly #registers = new Map<number, number>();
  #screen: EdidRegion;
  #shown: Picture | undefined;
  #flips = 0;
  #stopListening: (() => NotifierSteps) | undefined;

  constructor(name: string) {
    super();
    this.name = name;
    this.#table = new FollowedTable(name);
    this.#screen = this.#newScreen();
    this.#interrupts = new DeviceInterrupts(
      name,
      { msi: 1 },
      { retarget: ({ msi }) => this.#signals.retarget(msi), maskIntx: () => {} },
    );
    this.regions = new PciRegions(name, {
      config: { create: createGttConfig },
      bars: [
        {
          index: REGISTER_BAR,
          size: REGISTER_BAR_BYTES,
          ...registerAccess({
            read: (at) => this.#readRegister(at & ~3) >>> (8 * (at & 3)),
            write: (at, bytes, value) => {
              if (bytes === 4) this.#writeRegister(at, value >>> 0);
            },
          }),
        },
        {
          index: APERTURE_BAR,
          size: MOST_ENTRIES * PAGE,
          isPrefetchable: true,
          read: (offset, data) => this.#readAperture(offset, data),
        },
      ],
      typed: [edidRegion(() => this.#screen)],
    });
  }

  *openDevice(open: OpenDevice): NotifierSteps {
    this.regions.resetConfig();
    this.#screen = this.#newScreen();
    this.reset();
    const { device } = open;
    const listener = {
      name: this.name,
      call: (_event: number, kvm: KvmPointer | null) => this.#table.follow(kvm ?? undefined),
    };
    // The group's own word comes with the registration. What open.kvm was may have ended in the meantime, of which a listener
    // that registers later hears nothing.
    try {
      if (device === undefined) this.#table.follow(open.kvm);
      else {
        yield* device.registerNotifier(VFIO_GROUP_NOTIFY, { mask: VFIO_GROUP_NOTIFY_SET_KVM }, listener);
        this.#stopListening = () => device.unregisterNotifier(VFIO_GROUP_NOTIFY, listener);
      }
    } catch (error) {
      // A cdev has no group that is in use: its VM is that of the open, until the close.
      if (!isErrno(error, 'EINVAL')) throw error;
      this.#table.follow(open.kvm);
    }
  }

  *closeDevice(): NotifierSteps {
    const stop = this.#stopListening;
    this.#stopListening = undefined;
    this.reset();
    this.#interrupts[Symbol.dispose]();
    try {
      if (stop !== undefined) yield* stop();
    } finally {
      this.#table.follow(undefined);
    }
  }

  override reset(): void {
    this.#table.reset();
    this.#registers.clear();
    this.#shown = undefined;
    this.#flips = 0;
    this.#signals.reset();
  }

  getIrqInfo(index: number): IrqInfo {
    const isThere = index === VFIO_PCI_MSI_IRQ_INDEX || index === VFIO_PCI_REQ_IRQ_INDEX;
    return isThere ? irqInfo(index, { msi: 1 }) : { index, flags: 0, count: 0 };
  }

  setIrqs(set: IrqSet): void {
    this.#interrupts.set(set);
  }

  request(): void {
    this.#interrupts.request();
  }

  queryGfxPlane(query: GfxPlaneQuery): GfxPlaneInfo {
    return gfxPlane(this.name, APERTURE_BAR, query, this.plane);
  }

  /** What is shown; undefined for nothing. */
  get plane(): Plane | undefined {
    const isOn = (this.#get(REG_CONTROL) & CONTROL_DISPLAY) !== 0;
    return isOn ? this.#planeOf(this.#shown) : undefined;
  }

  /** Counters for reports. */
  counters(): Readonly<Record<string, number>> {
    const { updates, shadow } = this.#table;
    return { flips: this.#flips, updates, badEntries: shadow?.bad ?? 0 };
  }

  /** Undefined unless the picture lies in the table's memory, with lines that do not overlap. */
  #planeOf(picture: Picture | undefined): Plane | undefined {
    const { shadow } = this.#table;
    if (picture === undefined || shadow === undefined) return undefined;
    const { base: offset, stride, size, format: drmFormat } = picture;
    const [width, height] = [size & 0xffff, size >>> 16];
    const line = width * (PIXEL_BYTES.get(drmFormat) ?? 0);
    const end = offset + (height - 1) * stride + line;
    const isThere = line > 0 && height > 0 && stride >= line && end <= shadow.entries * PAGE;
    return isThere ? { width, height, drmFormat, offset, stride } : undefined;
  }

  #readAperture(offset: number, data: Uint8Array): void {
    data.fill(0);
    this.#table.shadow?.read(offset, data);
  }

  get #status(): number {
    const { hasGuest, shadow } = this.#table;
    const wantsTable = (this.#get(REG_CONTROL) & CONTROL_GTT) !== 0;
    const isBad = this.#shown !== undefined && this.#planeOf(this.#shown) === undefined;
    return (
      (shadow !== undefined ? STATUS_READY : 0) |
      (hasGuest ? 0 : STATUS_NO_KVM) |
      (hasGuest && wantsTable && shadow === undefined ? STATUS_BAD_TABLE : 0) |
      (isBad ? STATUS_BAD_PICTURE : 0)
    );
  }

  #readRegister(at: number): number {
    switch (at) {
      case REG_ID:
        return ID;
      case REG_STATUS:
        return this.#status;
      case REG_FLIP:
        return this.#flips;
      case REG_SHOWN:
        return this.#shown?.base ?? 0;
      case REG_BAD_ENTRIES:
        return this.#table.shadow?.bad ?? 0;
      case REG_UPDATES:
        return this.#table.updates;
      default:
        return this.#get(at);
    }
  }

  #writeRegister(at: number, value: number): void {
    const before = this.#get(at);
    if (KEPT.has(at)) this.#registers.set(at, value);
    if (at === REG_FLIP) this.#flip();
    if (at !== REG_CONTROL || ((before ^ value) & CONTROL_GTT) === 0) return;
    if ((value & CONTROL_GTT) === 0) this.#table.disable();
    else {
      const base = BigInt(this.#get(REG_GTT_BASE_LO)) | (BigInt(this.#get(REG_GTT_BASE_HI)) << 32n);
      this.#table.enable({ base: gpa(base), entries: this.#get(REG_GTT_ENTRIES) });
    }
  }

  #get(at: number): number {
    return this.#registers.get(at) ?? 0;
  }

  #flip(): void {
    this.#shown = {
      base: this.#get(REG_BASE),
      stride: this.#get(REG_STRIDE),
      size: this.#get(REG_SIZE),
      format: this.#get(REG_FORMAT),
    };
    this.#flips = (this.#flips + 1) >>> 0;
    this.#signals.send(0);
  }

  #newScreen(): EdidRegion {
    return new EdidRegion(this.name, createEdid(MODE.xres, MODE.yres), MODE);
  }
}
