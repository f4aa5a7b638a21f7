import { hva } from '../../../sys/address.js';
import { Mapping, viewOf } from '../../../sys/mapping.js';
import type { StructOf } from '../../../sys/struct.js';
import { regionOffset, regionPlace } from '../../region-layout.js';
import {
  VFIO_DEVICE_FLAGS_RESET,
  VFIO_GFX_PLANE_TYPE_PROBE,
  VFIO_IRQ_SET_DATA_BOOL,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_IRQ_SET_DATA_NONE,
  VFIO_PCI_INTX_IRQ_INDEX,
  VFIO_REGION_INFO_FLAG_CAPS,
  VFIO_REGION_INFO_FLAG_MMAP,
  VFIO_REGION_INFO_FLAG_READ,
  VFIO_REGION_INFO_FLAG_WRITE,
} from '../../uapi.js';
import { uuidBytes } from '../../uuid.js';
import {
  AttachIommufdPt,
  BindIommufd,
  DeviceInfo,
  GfxPlaneInfoStruct,
  IrqInfoStruct,
  IrqSetStruct,
  PciDependentDevice,
  PciHotReset,
  PciHotResetInfo,
  RegionInfoStruct,
  VFIO_DEVICE_ATTACH_IOMMUFD_PT,
  VFIO_DEVICE_BIND_FLAG_TOKEN,
  VFIO_DEVICE_BIND_IOMMUFD,
  VFIO_DEVICE_DETACH_IOMMUFD_PT,
  VFIO_DEVICE_FEATURE,
  VFIO_DEVICE_GET_GFX_DMABUF,
  VFIO_DEVICE_GET_INFO,
  VFIO_DEVICE_GET_IRQ_INFO,
  VFIO_DEVICE_GET_PCI_HOT_RESET_INFO,
  VFIO_DEVICE_GET_REGION_INFO,
  VFIO_DEVICE_PCI_HOT_RESET,
  VFIO_DEVICE_QUERY_GFX_PLANE,
  VFIO_DEVICE_RESET,
  VFIO_DEVICE_SET_IRQS,
  VFIO_PCI_DEVID_NOT_OWNED,
  VFIO_PCI_DEVID_OWNED,
  VFIO_PCI_HOT_RESET_FLAG_DEV_ID,
  VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED,
} from '../structs.js';
import { argszOf, type FakeObject, refuse, structure } from './call.js';
import { answerInfo, chain, type FakeCapability } from './container.js';
import { type FakeFeature, runFeature } from './feature.js';
import { type FakeIoas, FakeIommufd } from './iommufd.js';
import type { FakeGroup, FakeKernel } from './kernel.js';

export interface FakeRegion {
  /** VFIO_REGION_INFO_FLAG_ bits. */
  readonly flags: number;
  readonly size: number;
  /** Behind reads and writes. */
  readonly bytes?: Uint8Array;
  /** Offsets of bytes that no write changes: of a register that is stuck. */
  readonly stuck?: readonly number[];
  readonly capabilities?: readonly FakeCapability[];
}

export interface FakeDeviceShape {
  readonly name: string;
  readonly group: number;
  readonly cdev?: string;
  readonly isNoiommu?: boolean;
  readonly flags?: number;
  readonly regions?: readonly FakeRegion[];
  readonly irqs?: readonly { readonly flags: number; readonly count: number }[];
  /** How many vectors the host has for an MSI or MSI-X; all if absent. */
  readonly vectors?: number;
  readonly vfToken?: string;
  /** Functions that a hot reset touches; absent if there is none. */
  readonly hotReset?: readonly { readonly group: number; readonly bus: number; readonly devfn: number }[];
  /** What a display shows, and the VFIO_GFX_PLANE_TYPE_ that it can show it by. */
  readonly plane?: Partial<StructOf<typeof GfxPlaneInfoStruct>> & { readonly flags: number };
  /** Its dma-bufs, by id: each call returns a new descriptor. */
  readonly dmabuf?: (id: number) => number | undefined;
  /** VFIO_DEVICE_FEATURE, by number. */
  readonly features?: ReadonlyMap<number, FakeFeature>;
}

/** What SET_IRQS was last told of an index. */
export interface FakeIrqState {
  readonly flags: number;
  readonly start: number;
  readonly count: number;
  readonly data: readonly number[];
}

export class FakeDevice {
  readonly shape: FakeDeviceShape;
  readonly group: FakeGroup;
  readonly irqSets: FakeIrqState[] = [];
  openFiles = 0;
  /** VFIO_DEVICE_RESET of this device. */
  resets = 0;
  /** Resets of its slot or bus, whoever asked for them. */
  hotResets = 0;
  /** The iommufd that it is bound to by its cdev, and its id there. */
  bound: { readonly iommufd: FakeIommufd; readonly devid: number } | undefined;

  constructor(shape: FakeDeviceShape, group: FakeGroup) {
    this.shape = shape;
    this.group = group;
  }

  get isOpen(): boolean {
    return this.openFiles > 0;
  }

  /** Its id in an iommufd; OWNED if only its group is bound there. @see vfio_iommufd_get_dev_id */
  devidIn(iommufd: FakeIommufd): number {
    if (this.bound?.iommufd === iommufd) return this.bound.devid;
    const hasGroup = this.group.devices.some(({ bound }) => bound?.iommufd === iommufd);
    return hasGroup ? VFIO_PCI_DEVID_OWNED : VFIO_PCI_DEVID_NOT_OWNED;
  }
}

const hex = (value: number): string => value.toString(16).padStart(2, '0');

/** An open device: struct vfio_device_file. */
export class FakeDeviceFile implements FakeObject {
  readonly #kernel: FakeKernel;
  readonly #device: FakeDevice;
  readonly #closed: (() => void) | undefined;
  #isGranted: boolean;
  #iommufd: FakeIommufd | undefined;
  #devid = 0;
  #ioas: FakeIoas | undefined;

  private constructor(kernel: FakeKernel, device: FakeDevice, closed: (() => void) | undefined) {
    this.#kernel = kernel;
    this.#device = device;
    this.#closed = closed;
    this.#isGranted = closed !== undefined;
  }

  static ofGroup(kernel: FakeKernel, device: FakeDevice, closed: () => void): FakeDeviceFile {
    device.openFiles++;
    return new FakeDeviceFile(kernel, device, closed);
  }

  static ofCdev(kernel: FakeKernel, device: FakeDevice): FakeDeviceFile {
    return new FakeDeviceFile(kernel, device, undefined);
  }

  release(): void {
    this.#ioas?.users.delete(this);
    this.#iommufd?.removeDevice(this.#devid);
    if (this.#iommufd !== undefined) this.#device.bound = undefined;
    if (this.#isGranted) this.#device.openFiles--;
    this.#closed?.();
  }

  ioctl(number: number, argument: number | Uint8Array): number {
    if (number === VFIO_DEVICE_BIND_IOMMUFD.number) return this.#bind(structure(argument));
    if (!this.#isGranted) refuse('EINVAL');
    const { shape } = this.#device;
    switch (number) {
      case VFIO_DEVICE_GET_INFO.number: {
        const { flags = 0, regions = [], irqs = [] } = shape;
        const full = DeviceInfo.encode({ flags, num_regions: regions.length, num_irqs: irqs.length });
        return answerInfo(structure(argument), 16, full, DeviceInfo.offsets.cap_offset);
      }
      case VFIO_DEVICE_GET_REGION_INFO.number:
        return this.#regionInfo(structure(argument));
      case VFIO_DEVICE_GET_IRQ_INFO.number: {
        const bytes = structure(argument);
        argszOf(bytes, IrqInfoStruct.size);
        const { index } = IrqInfoStruct.decode(bytes);
        const irq = shape.irqs?.[index] ?? refuse('EINVAL');
        IrqInfoStruct.write(bytes, { flags: irq.flags, count: irq.count });
        return 0;
      }
      case VFIO_DEVICE_SET_IRQS.number:
        return this.#setIrqs(structure(argument));
      case VFIO_DEVICE_RESET.number:
        if (((shape.flags ?? 0) & VFIO_DEVICE_FLAGS_RESET) === 0) refuse('EINVAL');
        this.#device.resets++;
        return 0;
      case VFIO_DEVICE_QUERY_GFX_PLANE.number: {
        const bytes = structure(argument);
        argszOf(bytes, GfxPlaneInfoStruct.offsets.region_index + 4);
        const { flags } = GfxPlaneInfoStruct.decode(bytes);
        const { flags: types, ...plane } = shape.plane ?? refuse('ENOTTY');
        if ((flags & types) === 0) refuse('EINVAL');
        if ((flags & VFIO_GFX_PLANE_TYPE_PROBE) === 0) GfxPlaneInfoStruct.write(bytes, plane);
        return 0;
      }
      case VFIO_DEVICE_GET_GFX_DMABUF.number: {
        const [id = 0] = new Uint32Array(structure(argument).slice().buffer);
        const { dmabuf = () => refuse('ENOTTY') } = shape;
        return dmabuf(id) ?? refuse('EINVAL');
      }
      case VFIO_DEVICE_GET_PCI_HOT_RESET_INFO.number:
        return this.#hotResetInfo(structure(argument));
      case VFIO_DEVICE_PCI_HOT_RESET.number:
        return this.#hotReset(structure(argument));
      case VFIO_DEVICE_FEATURE.number:
        runFeature(shape.features, structure(argument));
        return 0;
      case VFIO_DEVICE_ATTACH_IOMMUFD_PT.number: {
        const bytes = structure(argument);
        argszOf(bytes, AttachIommufdPt.offsets.pasid);
        if (this.#iommufd === undefined) refuse('EINVAL');
        const ioas = this.#iommufd.ioas(AttachIommufdPt.decode(extended(bytes)).pt_id);
        if (ioas.maps.some(({ iova, size }) => (iova | size) % 4096n !== 0n)) refuse('EADDRINUSE');
        this.#ioas?.users.delete(this);
        ioas.users.add(this);
        this.#ioas = ioas;
        return 0;
      }
      case VFIO_DEVICE_DETACH_IOMMUFD_PT.number:
        if (this.#iommufd === undefined) refuse('EINVAL');
        this.#ioas?.users.delete(this);
        this.#ioas = undefined;
        return 0;
      default:
        return refuse('ENOTTY');
    }
  }

  /** @see vfio_df_ioctl_bind_iommufd */
  #bind(bytes: Uint8Array): number {
    const argsz = argszOf(bytes, BindIommufd.offsets.token_uuid_ptr);
    const { iommufd: fd, flags, token_uuid_ptr } = BindIommufd.decode(extended(bytes));
    const known = this.#kernel.takesTokens ? VFIO_DEVICE_BIND_FLAG_TOKEN : 0;
    if (fd < 0 || (flags & ~known) !== 0 || this.#closed !== undefined) refuse('EINVAL');
    if ((flags & VFIO_DEVICE_BIND_FLAG_TOKEN) !== 0 && argsz < BindIommufd.size) refuse('EINVAL');
    const device = this.#device;
    if (device.group.isOpen || device.group.container !== undefined) refuse('EBUSY');
    if (this.#iommufd !== undefined) refuse('EINVAL');
    if (this.#kernel.takesTokens) this.#checkToken(flags, token_uuid_ptr);
    const iommufd = this.#kernel.behind(fd);
    if (!(iommufd instanceof FakeIommufd)) return refuse('EBADFD');
    if (device.bound !== undefined) refuse('EINVAL');
    this.#iommufd = iommufd;
    this.#devid = iommufd.addDevice();
    device.bound = { iommufd, devid: this.#devid };
    device.openFiles++;
    this.#isGranted = true;
    BindIommufd.write(bytes, { out_devid: this.#devid });
    return 0;
  }

  /** @see vfio_df_check_token */
  #checkToken(flags: number, address: bigint): void {
    const { vfToken } = this.#device.shape;
    const isGiven = (flags & VFIO_DEVICE_BIND_FLAG_TOKEN) !== 0;
    if (vfToken === undefined) {
      if (isGiven) refuse('EINVAL');
      return;
    }
    if (!isGiven) refuse('EACCES');
    const { view, at } = viewOf(hva(address), 16n, 'copy_from_user');
    if (Buffer.compare(view.slice(at, 16), uuidBytes(vfToken)) !== 0) refuse('EACCES');
  }

  #regionInfo(bytes: Uint8Array): number {
    argszOf(bytes, RegionInfoStruct.size);
    const { index } = RegionInfoStruct.decode(bytes);
    const region = this.#device.shape.regions?.[index] ?? refuse('EINVAL');
    const { capabilities = [] } = region;
    const flags = region.flags | (capabilities.length > 0 ? VFIO_REGION_INFO_FLAG_CAPS : 0);
    const fixed = RegionInfoStruct.encode({
      flags,
      index,
      size: BigInt(region.size),
      offset: BigInt(regionOffset(index)),
    });
    const at = RegionInfoStruct.offsets.cap_offset;
    return answerInfo(bytes, RegionInfoStruct.size, chain(fixed, at, capabilities), at);
  }

  /** @see vfio_set_irqs_validate_and_prepare */
  #setIrqs(bytes: Uint8Array): number {
    const argsz = argszOf(bytes, IrqSetStruct.size);
    const { flags, index, start, count } = IrqSetStruct.decode(bytes);
    const irq = this.#device.shape.irqs?.[index] ?? refuse('EINVAL');
    if ((flags & ~0x3f) !== 0 || start >= irq.count || start + count > irq.count) refuse('EINVAL');
    const type = flags & (VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_DATA_BOOL | VFIO_IRQ_SET_DATA_EVENTFD);
    const width = {
      [VFIO_IRQ_SET_DATA_NONE]: 0,
      [VFIO_IRQ_SET_DATA_BOOL]: 1,
      [VFIO_IRQ_SET_DATA_EVENTFD]: 4,
    }[type];
    if (width === undefined || argsz - IrqSetStruct.size < width * count) refuse('EINVAL');
    const view = new DataView(bytes.buffer, bytes.byteOffset + IrqSetStruct.size);
    const data = Array.from({ length: width === 0 ? 0 : count }, (_, i) =>
      width === 4 ? view.getInt32(i * 4, true) : view.getUint8(i),
    );
    this.#device.irqSets.push({ flags, start, count, data });
    // vfio_msi_enable: pci_alloc_irq_vectors found fewer, so they are freed again, and counted.
    const { vectors = count } = this.#device.shape;
    if (index !== VFIO_PCI_INTX_IRQ_INDEX && width === 4 && count > vectors) return vectors;
    return 0;
  }

  /** @see vfio_pci_ioctl_get_pci_hot_reset_info */
  #hotResetInfo(bytes: Uint8Array): number {
    const argsz = argszOf(bytes, PciHotResetInfo.size);
    const functions = this.#device.shape.hotReset ?? refuse('ENODEV');
    PciHotResetInfo.write(bytes, { flags: 0, count: functions.length });
    if (argsz < PciHotResetInfo.size + functions.length * PciDependentDevice.size) refuse('ENOSPC');
    const iommufd = this.#iommufd;
    let flags =
      iommufd === undefined ? 0 : VFIO_PCI_HOT_RESET_FLAG_DEV_ID | VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED;
    for (const [i, { group, bus, devfn }] of functions.entries()) {
      const device = this.#ofSet(bus, devfn);
      const devid = iommufd === undefined ? 0 : (device?.devidIn(iommufd) ?? VFIO_PCI_DEVID_NOT_OWNED);
      if (devid === VFIO_PCI_DEVID_NOT_OWNED) flags &= ~VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED;
      const entry = { group_id: iommufd === undefined ? group : devid >>> 0, segment: 0, bus, devfn };
      PciDependentDevice.write(bytes, entry, PciHotResetInfo.size + i * PciDependentDevice.size);
    }
    PciHotResetInfo.write(bytes, { flags });
    return 0;
  }

  /** A function of the slot, if a vfio driver has it. */
  #ofSet(bus: number, devfn: number): FakeDevice | undefined {
    const name = `0000:${hex(bus)}:${hex(devfn >> 3)}.${devfn & 7}`;
    return this.#kernel.devices.find(({ shape }) => shape.name === name);
  }

  /** @see vfio_pci_ioctl_pci_hot_reset, vfio_pci_dev_set_hot_reset */
  #hotReset(bytes: Uint8Array): number {
    argszOf(bytes, PciHotReset.size);
    const { count, flags } = PciHotReset.decode(bytes);
    const iommufd = this.#iommufd;
    if (flags !== 0 || (count !== 0) === (iommufd !== undefined)) refuse('EINVAL');
    const functions = this.#device.shape.hotReset ?? refuse('ENODEV');
    if (count > functions.length) refuse('EINVAL');
    const view = new DataView(bytes.buffer, bytes.byteOffset + PciHotReset.size);
    const given = Array.from({ length: count }, (_, i) => this.#kernel.behind(view.getInt32(i * 4, true)));
    if (given.some((object) => ![...this.#kernel.groups.values()].includes(object as FakeGroup)))
      refuse('EINVAL');
    const set = functions.map(({ bus, devfn }) => this.#ofSet(bus, devfn) ?? refuse('EINVAL'));
    const isOwned = (device: FakeDevice): boolean =>
      iommufd === undefined
        ? given.includes(device.group)
        : device.devidIn(iommufd) !== VFIO_PCI_DEVID_NOT_OWNED;
    if (!set.every(isOwned)) refuse('EINVAL');
    for (const device of set) device.hotResets++;
    return 0;
  }

  /** As vfio-pci treats a BAR: what goes past the end is left out. */
  #access(offset: number, length: number, right: number): Uint8Array {
    if (!this.#isGranted) refuse('EINVAL');
    const { index, at } = regionPlace(offset);
    const region = this.#device.shape.regions?.[index] ?? refuse('EINVAL');
    if (at >= region.size || (region.flags & right) === 0) refuse('EINVAL');
    const bytes = region.bytes ?? refuse('EIO');
    return bytes.subarray(at, Math.min(at + length, region.size));
  }

  pread(offset: number, data: Uint8Array): number {
    const bytes = this.#access(offset, data.length, VFIO_REGION_INFO_FLAG_READ);
    data.set(bytes);
    return bytes.length;
  }

  pwrite(offset: number, data: Uint8Array): number {
    const bytes = this.#access(offset, data.length, VFIO_REGION_INFO_FLAG_WRITE);
    const { index, at } = regionPlace(offset);
    const stuck = this.#device.shape.regions?.[index]?.stuck ?? [];
    for (let i = 0; i < bytes.length; i++) if (!stuck.includes(at + i)) bytes[i] = data[i] as number;
    return bytes.length;
  }

  mmap(offset: number, bytes: number): Mapping {
    if (!this.#isGranted) refuse('EINVAL');
    const { index, at } = regionPlace(offset);
    const region = this.#device.shape.regions?.[index] ?? refuse('EINVAL');
    if ((region.flags & VFIO_REGION_INFO_FLAG_MMAP) === 0 || at + bytes > region.size) refuse('EINVAL');
    return Mapping.anonymous(bytes);
  }
}

/** A structure that may end before its newest fields, with these as zeroes. */
function extended(bytes: Uint8Array): Uint8Array {
  const room = new Uint8Array(64);
  room.set(bytes.subarray(0, 64));
  return room;
}
