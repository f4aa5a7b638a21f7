import { expect } from 'vitest';
import { VgpuGttDevice } from '../../devices/vgpu-gtt/device.js';
import * as gtt from '../../devices/vgpu-gtt/spec.js';
import type { VfioDevice } from '../../vfio/core/device.js';
import type { CoreDeviceFile } from '../../vfio/core/device-file.js';
import { HostDevice } from '../../vfio/core/iommu-group.js';
import type { KvmPointer } from '../../vfio/driver.js';
import { DRM_FORMAT_RGB565, DRM_FORMAT_XRGB8888 } from '../../vfio/drm.js';
import { type Contained, World, type WorldDevice } from '../../vfio/testing/index.js';
import { VFIO_GFX_PLANE_TYPE_REGION } from '../../vfio/uapi.js';

/** A card in a core, in a container. */
export class GttCard implements Disposable {
  readonly world = new World();
  readonly ops = new VgpuGttDevice('vgpu-gtt test');
  readonly device: VfioDevice;
  readonly contained: Contained;
  readonly #dev = new HostDevice('vgpu-gtt-test');
  #file: CoreDeviceFile | undefined;

  constructor() {
    const { core } = this.world;
    core.run(this.world.iommuGroup().addDevice(this.#dev));
    core.addGroupDev(this.#dev, this.ops, undefined);
    this.device = this.#dev.drvdata as VfioDevice;
    this.contained = this.world.contain({ device: this.device } as WorldDevice);
  }

  setKvm(kvm: KvmPointer | null): void {
    this.world.core.run(this.contained.group.setKvmSteps(kvm));
  }

  open(): CoreDeviceFile {
    this.#file = this.world.core.run(this.contained.group.getDeviceFdSteps(this.device.name));
    return this.#file;
  }

  get(register: number): number {
    const data = new Uint32Array(1);
    this.ops.read(gtt.REGISTER_BAR, register, new Uint8Array(data.buffer));
    return data[0] as number;
  }

  set(register: number, value: number): void {
    this.ops.write(gtt.REGISTER_BAR, register, new Uint8Array(new Uint32Array([value]).buffer));
  }

  useTable(base: number, entries: number): void {
    this.set(gtt.REG_CONTROL, 0);
    this.set(gtt.REG_GTT_BASE_LO, base >>> 0);
    this.set(gtt.REG_GTT_BASE_HI, Math.floor(base / 2 ** 32));
    this.set(gtt.REG_GTT_ENTRIES, entries);
    this.set(gtt.REG_CONTROL, gtt.CONTROL_GTT | gtt.CONTROL_DISPLAY);
  }

  show(base: number, width: number, height: number, format = DRM_FORMAT_XRGB8888, stride = 4 * width): void {
    this.set(gtt.REG_BASE, base);
    this.set(gtt.REG_STRIDE, stride);
    this.set(gtt.REG_SIZE, width | (height << 16));
    this.set(gtt.REG_FORMAT, format);
    this.set(gtt.REG_FLIP, 1);
  }

  /** The picture as a display reads it; undefined while nothing is shown. */
  picture(): Uint8Array | undefined {
    const query = { flags: VFIO_GFX_PLANE_TYPE_REGION, drmPlaneType: 1 };
    const { drmFormat, width, height, stride, offset, regionIndex } = this.ops.queryGfxPlane(query);
    if (drmFormat === 0) return undefined;
    const line = width * (drmFormat === DRM_FORMAT_RGB565 ? 2 : 4);
    const data = new Uint8Array((height - 1) * stride + line);
    expect(this.ops.read(regionIndex, offset, data)).toBe(data.length);
    return data;
  }

  [Symbol.dispose](): void {
    this.#file?.[Symbol.dispose]();
    this.setKvm(null);
    this.contained.close();
    this.world.core.delGroupDev(this.#dev);
    expect(this.world.leftovers()).toEqual([]);
  }
}

const PAGE = 4096;
/** A table entry of a page of guest memory. */
export const valid = (page: number): bigint => BigInt(page * PAGE) | gtt.ENTRY_VALID;
