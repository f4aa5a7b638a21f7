import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { Fd } from '../../sys/fd.js';
import type { Mapping } from '../../sys/mapping.js';
import type { FeatureInput, FeatureOutput } from '../feature.js';
import type { HotResetInfo } from '../pci-hot-reset.js';
import {
  type CdevFile,
  type DeviceInfo,
  type GfxPlaneInfo,
  type GfxPlaneQuery,
  type GroupFile,
  type IommufdFile,
  type IrqInfo,
  type IrqSet,
  type RegionInfo,
  type RegionIoEventFd,
  VFIO_GFX_PLANE_TYPE_DMABUF,
} from '../uapi.js';
import { VectorLimit } from '../vector-limit.js';
import { attachIoas, bindIommufd, type CdevOptions, detachIoas } from './cdev.js';
import { deviceFeature, getFeature, probeFeature, setFeature, setVfToken } from './device-feature.js';
import { getPciHotResetInfo, pciHotReset } from './hot-reset.js';
import { decodeReply, infoIoctl } from './info-call.js';
import { encodeIrqSet } from './irq-set.js';
import { decodeRegionInfo } from './region-info.js';
import {
  DeviceInfo as DeviceInfoStruct,
  GfxPlaneInfoStruct,
  IrqInfoStruct,
  RegionInfoStruct,
  VFIO_DEVICE_GET_GFX_DMABUF,
  VFIO_DEVICE_GET_INFO,
  VFIO_DEVICE_GET_IRQ_INFO,
  VFIO_DEVICE_GET_REGION_INFO,
  VFIO_DEVICE_QUERY_GFX_PLANE,
  VFIO_DEVICE_RESET,
  VFIO_DEVICE_SET_IRQS,
} from './structs.js';
import type { SystemFile } from './system.js';

/**
 * A device file of the kernel. A file from GET_DEVICE_FD can be used immediately; every call on a file from a cdev
 * fails with EINVAL until {@link bindIommufd} has succeeded.
 */
export class HostDeviceFile implements CdevFile {
  readonly #file: SystemFile;
  readonly #options: CdevOptions;

  private constructor(file: SystemFile, options: CdevOptions) {
    this.#file = file;
    this.#options = options;
  }

  /** @internal Takes ownership of the open file. */
  static adopt(file: SystemFile, options: CdevOptions = {}): HostDeviceFile {
    return new HostDeviceFile(file, options);
  }

  get target(): string {
    return this.#file.target;
  }

  get fd(): number {
    return this.#file.fd;
  }

  getInfo(): DeviceInfo {
    const reply = infoIoctl(this.#file, VFIO_DEVICE_GET_INFO, DeviceInfoStruct.encode());
    const { flags, num_regions, num_irqs } = DeviceInfoStruct.decode(reply);
    return { flags, numRegions: num_regions, numIrqs: num_irqs };
  }

  getRegionInfo(index: number): RegionInfo {
    const reply = infoIoctl(this.#file, VFIO_DEVICE_GET_REGION_INFO, RegionInfoStruct.encode({ index }));
    return decodeReply(VFIO_DEVICE_GET_REGION_INFO, this.target, () => decodeRegionInfo(reply));
  }

  /** Empty, after a check of the index: the kernel has no such call. */
  getRegionIoFds(index: number): readonly RegionIoEventFd[] {
    this.getRegionInfo(index);
    return [];
  }

  getIrqInfo(index: number): IrqInfo {
    const reply = infoIoctl(this.#file, VFIO_DEVICE_GET_IRQ_INFO, IrqInfoStruct.encode({ index }));
    const { flags, count } = IrqInfoStruct.decode(reply);
    return { index, flags, count };
  }

  setIrqs(set: IrqSet): void {
    const target = `${this.target}, irq index ${set.index}`;
    const available = this.#file.ioctl(VFIO_DEVICE_SET_IRQS, encodeIrqSet(set, target), target);
    if (available > 0) throw new VectorLimit(target, set.count, available);
  }

  reset(): void {
    this.#file.ioctl(VFIO_DEVICE_RESET);
  }

  read(offset: number, data: Uint8Array): number {
    return this.#file.pread(offset, data);
  }

  write(offset: number, data: Uint8Array): number {
    return this.#file.pwrite(offset, data);
  }

  mmap(offset: number, bytes: number): Mapping {
    return this.#file.mmap(offset, bytes);
  }

  queryGfxPlane({ flags, drmPlaneType, head = 0 }: GfxPlaneQuery): GfxPlaneInfo {
    if (head !== 0) {
      const hint = 'a device of the kernel has one screen, number 0';
      throw new SysError({
        call: 'VFIO_DEVICE_QUERY_GFX_PLANE',
        target: this.target,
        errno: errno.EINVAL,
        hint,
      });
    }
    const argsz = GfxPlaneInfoStruct.size;
    const reply = GfxPlaneInfoStruct.encode({ argsz, flags, drm_plane_type: drmPlaneType });
    this.#file.ioctl(VFIO_DEVICE_QUERY_GFX_PLANE, reply);
    const info = GfxPlaneInfoStruct.decode(reply);
    return {
      drmFormat: info.drm_format,
      drmFormatMod: info.drm_format_mod,
      width: info.width,
      height: info.height,
      stride: info.stride,
      size: info.size,
      xPos: info.x_pos,
      yPos: info.y_pos,
      xHot: info.x_hot,
      yHot: info.y_hot,
      ...((flags & VFIO_GFX_PLANE_TYPE_DMABUF) === 0
        ? { regionIndex: info.region_index }
        : { regionIndex: 0, dmabufId: info.region_index }),
      offset: 0,
    };
  }

  getGfxDmabuf(dmabufId: number): Fd {
    const id = new Uint8Array(Uint32Array.of(dmabufId).buffer);
    const target = `${this.target}, dma-buf ${dmabufId}`;
    return Fd.adopt(this.#file.ioctl(VFIO_DEVICE_GET_GFX_DMABUF, id, target), target);
  }

  /** The functions that a reset of the device's slot or bus affects. @throws SysError ENODEV if neither can be reset */
  getPciHotResetInfo(): HotResetInfo {
    return getPciHotResetInfo(this.#file);
  }

  /**
   * Resets the device's slot or bus, with every function on it.
   * @param groups the groups of all these functions; empty for a device that is bound to an iommufd
   * @throws SysError EINVAL or EPERM if an affected function is not owned; ENODEV
   */
  pciHotReset(groups: readonly GroupFile[] = []): void {
    pciHotReset(this.#file, groups);
  }

  deviceFeature(flags: number, input?: FeatureInput): FeatureOutput {
    return deviceFeature(this.#file, flags, input);
  }

  /** @see probeFeature */
  probeFeature(feature: number, access?: number): boolean {
    return probeFeature(this.#file, feature, access);
  }

  /** @see getFeature */
  getFeature(feature: number, input: Uint8Array): Uint8Array {
    return getFeature(this.#file, feature, input);
  }

  /** @see setFeature */
  setFeature(feature: number, input: Uint8Array): Uint8Array {
    return setFeature(this.#file, feature, input);
  }

  /** @see setVfToken */
  setVfToken(uuid: string): void {
    setVfToken(this.#file, uuid);
  }

  bindIommufd(iommufd: IommufdFile, vfToken?: string): number {
    return bindIommufd(this.#file, iommufd, this.#options, vfToken);
  }

  attachIoas(ioas: number): void {
    attachIoas(this.#file, ioas);
  }

  detachIoas(): void {
    detachIoas(this.#file);
  }

  /** Closes the file: calls then throw SysError EBADF. */
  [Symbol.dispose](): void {
    this.#file[Symbol.dispose]();
  }
}
