/**
 * A kernel for tests: an in-memory VfioSystem, which takes the same structures byte for byte and fails with the errno
 * values of drivers/vfio. This file has the groups and the file table; containers, devices and iommufd have their own.
 */
import { errno } from '../../../sys/errno.js';
import { SysError } from '../../../sys/error.js';
import { checkedResult, type Request } from '../../../sys/ioctl.js';
import { VFIO_GROUP_FLAGS_CONTAINER_SET, VFIO_GROUP_FLAGS_VIABLE, VFIO_NOIOMMU_IOMMU } from '../../uapi.js';
import {
  GroupStatus,
  VFIO_GROUP_GET_DEVICE_FD,
  VFIO_GROUP_GET_STATUS,
  VFIO_GROUP_SET_CONTAINER,
  VFIO_GROUP_UNSET_CONTAINER,
} from '../structs.js';
import type { DeviceNumber, SystemFile, VfioSystem } from '../system.js';
import { argszOf, type ErrnoName, type FakeObject, Refusal, refuse, structure } from './call.js';
import { FakeContainer } from './container.js';
import { FakeDevice, FakeDeviceFile, type FakeDeviceShape } from './device.js';
import { FakeIommufd } from './iommufd.js';

class FakeGroup implements FakeObject {
  readonly number: number;
  readonly devices: FakeDevice[] = [];
  readonly isNoiommu: boolean;
  isViable = true;
  isOpen = false;
  container: FakeContainer | undefined;
  readonly #kernel: FakeKernel;

  constructor(kernel: FakeKernel, number: number, isNoiommu: boolean) {
    this.#kernel = kernel;
    this.number = number;
    this.isNoiommu = isNoiommu;
  }

  get openDevices(): number {
    return this.devices.filter(({ isOpen }) => isOpen).length;
  }

  ioctl(number: number, argument: number | Uint8Array): number {
    switch (number) {
      case VFIO_GROUP_GET_STATUS.number: {
        const bytes = structure(argument);
        argszOf(bytes, GroupStatus.size);
        const contained = this.container === undefined ? 0 : VFIO_GROUP_FLAGS_CONTAINER_SET;
        GroupStatus.write(bytes, { flags: (this.isViable ? VFIO_GROUP_FLAGS_VIABLE : 0) | contained });
        return 0;
      }
      case VFIO_GROUP_SET_CONTAINER.number: {
        const bytes = structure(argument);
        const fd = new DataView(bytes.buffer, bytes.byteOffset).getInt32(0, true);
        if (this.container !== undefined) refuse('EINVAL');
        const container = this.#kernel.behind(fd);
        if (!(container instanceof FakeContainer)) return refuse('EINVAL');
        container.attach(this);
        this.container = container;
        return 0;
      }
      case VFIO_GROUP_UNSET_CONTAINER.number:
        if (this.container === undefined) refuse('EINVAL');
        if (this.openDevices > 0) refuse('EBUSY');
        this.detach();
        return 0;
      case VFIO_GROUP_GET_DEVICE_FD.number:
        return this.#getDeviceFd(structure(argument));
      default:
        return refuse('ENOTTY');
    }
  }

  #getDeviceFd(bytes: Uint8Array): number {
    const end = bytes.indexOf(0);
    if (end < 0) refuse('EFAULT');
    const [name, token] = Buffer.from(bytes.subarray(0, end)).toString().split(' vf_token=');
    if (this.container?.type === undefined) refuse('EINVAL');
    const device = this.devices.find((candidate) => candidate.shape.name === name) ?? refuse('ENODEV');
    if (device.shape.vfToken !== token) refuse(device.shape.vfToken === undefined ? 'EINVAL' : 'EACCES');
    return this.#kernel.install(FakeDeviceFile.ofGroup(this.#kernel, device, () => this.#deviceClosed()));
  }

  detach(): void {
    this.container?.detach(this);
    this.container = undefined;
  }

  #deviceClosed(): void {
    if (!this.isOpen && this.openDevices === 0) this.detach();
  }

  release(): void {
    this.isOpen = false;
    if (this.openDevices === 0) this.detach();
  }
}

export type { FakeGroup };

/** A recorded call. */
export interface FakeCall {
  readonly request: string;
  readonly target: string;
}

/** The scripted kernel. Descriptors are numbers from 1000 on; closing one is noticed. */
export class FakeKernel implements VfioSystem {
  readonly calls: FakeCall[] = [];
  readonly groups = new Map<number, FakeGroup>();
  readonly devices: FakeDevice[] = [];
  /** IOMMU types that SET_IOMMU takes. */
  iommuTypes: readonly number[] = [1, 3];
  /** Whether BIND_IOMMUFD knows VFIO_DEVICE_BIND_FLAG_TOKEN, as from 6.18 on. */
  takesTokens = true;
  /** Bytes that may be mapped in all before ENOMEM. */
  memlock = Infinity;
  /** Maps that may exist before ENOSPC. */
  dmaEntryLimit = 65_535;
  readonly #files = new Map<number, FakeObject>();
  readonly #answers = new Map<string, number>();
  readonly #fails = new Map<string, ErrnoName>();
  readonly #nodes = new Map<string, () => FakeObject>();
  readonly #numbers = new Map<number, DeviceNumber>();
  #next = 1000;

  constructor(dev = '/dev') {
    this.#nodes.set(`${dev}/vfio/vfio`, () => new FakeContainer(this));
    this.#nodes.set(`${dev}/iommu`, () => new FakeIommufd());
    this.dev = dev;
  }

  readonly dev: string;

  /** Adds a device that a vfio driver has, with its group and cdev. */
  addDevice(shape: FakeDeviceShape): FakeDevice {
    const isNoiommu = shape.isNoiommu ?? false;
    const group = this.groups.get(shape.group) ?? new FakeGroup(this, shape.group, isNoiommu);
    this.groups.set(shape.group, group);
    const device = new FakeDevice(shape, group);
    group.devices.push(device);
    this.devices.push(device);
    this.#nodes.set(`${this.dev}/vfio/${isNoiommu ? 'noiommu-' : ''}${shape.group}`, () => {
      const isHeld = group.container !== undefined || group.devices.some(({ bound }) => bound !== undefined);
      if (group.isOpen || isHeld) refuse('EBUSY');
      group.isOpen = true;
      return group;
    });
    if (shape.cdev !== undefined) {
      this.#nodes.set(`${this.dev}/vfio/devices/${shape.cdev}`, () => FakeDeviceFile.ofCdev(this, device));
    }
    return device;
  }

  /** The next call of that name, an ioctl or `open PATH`, fails with this errno. */
  failNext(call: string, code: ErrnoName): void {
    this.#fails.set(call, code);
  }

  /** Every call of that name returns this number, whatever it does. */
  answer(call: string, value: number): void {
    this.#answers.set(call, value);
  }

  /** Takes a node out of /dev. */
  removeNode(path: string): void {
    this.#nodes.delete(path);
  }

  get openFiles(): number {
    return this.#files.size;
  }

  /** What a descriptor stands for. @throws Refusal EBADF */
  behind(fd: number): FakeObject {
    return this.#files.get(fd) ?? refuse('EBADF');
  }

  install(object: FakeObject): number {
    const fd = this.#next++;
    this.#files.set(fd, object);
    return fd;
  }

  open(path: string, target = path): SystemFile {
    const fd = this.#perform(`open ${path}`, 'open', path, () => {
      const node = this.#nodes.get(path) ?? refuse('ENOENT');
      return this.install(node());
    });
    return this.adopt(fd, target);
  }

  adopt(fd: number, target: string): SystemFile {
    this.#perform('adopt', 'fcntl F_SETFD', target, () => this.behind(fd));
    return this.#handle(fd, target);
  }

  /** What fstat shall say of a descriptor. */
  setDeviceNumber(fd: number, number: DeviceNumber): void {
    this.#numbers.set(fd, number);
  }

  deviceNumber(fd: number): DeviceNumber {
    return this.#perform('fstat', 'fstat', `fd ${fd}`, () => this.#numbers.get(fd) ?? refuse('EBADF'));
  }

  #handle(fd: number, target: string): SystemFile {
    let isOpen = true;
    const use = (): FakeObject => (isOpen ? this.behind(fd) : refuse('EBADF'));
    return {
      target,
      get fd() {
        use();
        return fd;
      },
      ioctl: (request: Request, argument = 0, about = target) => {
        this.calls.push({ request: request.name, target: about });
        return this.#perform(
          request.name,
          request.name,
          about,
          () =>
            checkedResult(
              this.#answers.get(request.name) ?? use().ioctl(request.number, argument),
              request,
              about,
            ),
          request,
        );
      },
      pread: (offset, data) =>
        this.#perform('pread', 'pread', target, () => use().pread?.(offset, data) ?? refuse('EINVAL')),
      pwrite: (offset, data) =>
        this.#perform('pwrite', 'pwrite', target, () => use().pwrite?.(offset, data) ?? refuse('EINVAL')),
      mmap: (offset, bytes) =>
        this.#perform('mmap', 'mmap', target, () => use().mmap?.(offset, bytes) ?? refuse('ENODEV')),
      [Symbol.dispose]: () => {
        if (!isOpen) return;
        isOpen = false;
        const object = this.#files.get(fd);
        this.#files.delete(fd);
        object?.release?.();
      },
    };
  }

  #perform<T>(key: string, call: string, target: string, body: () => T, request?: Request): T {
    try {
      const code = this.#fails.get(key);
      this.#fails.delete(key);
      if (code !== undefined) refuse(code);
      return body();
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      throw new SysError({ call, target, errno: errno[error.code], hint: request?.hints[error.code] });
    }
  }

  /** Whether an IOMMU type fits a group. */
  takesType(type: number, isNoiommu: boolean): boolean {
    return isNoiommu ? type === VFIO_NOIOMMU_IOMMU : this.iommuTypes.includes(type);
  }
}
