import { isErrno } from '../sys/error.js';
import { Fd } from '../sys/fd.js';
import { ioctl, type Request } from '../sys/ioctl.js';
import { withAddress } from '../sys/libc.js';
import * as uapi from './uapi.js';

const names: Readonly<Record<number, string>> = { [uapi.KVM_DEV_TYPE_VFIO]: 'kvm-vfio' };
/** The attribute decides how many bytes the kernel reads or writes, so each gets more than the largest. */
const MOST_VALUE_BYTES = 4096;

const nameOf = (type: number): string => names[type] ?? `kvm device ${type}`;

function isThere(fd: Fd, request: Request, bytes: Uint8Array, missing: 'ENODEV' | 'ENXIO'): boolean {
  try {
    ioctl(fd, request, bytes);
    return true;
  } catch (error) {
    if (isErrno(error, missing)) return false;
    throw error;
  }
}

/** An in-kernel KVM device and its attributes. Owns the descriptor. */
export class KvmDevice implements Disposable {
  /** The device's descriptor, owned by this object. */
  readonly fd: Fd;

  private constructor(fd: Fd) {
    this.fd = fd;
  }

  /** @throws SysError ENODEV if the kernel lacks the type; EBUSY for a second kvm-vfio */
  static create(vm: Fd, type: number): KvmDevice {
    const bytes = uapi.CreateDevice.encode({ type });
    ioctl(vm, uapi.KVM_CREATE_DEVICE, bytes, `${vm.target}, ${nameOf(type)}`);
    return KvmDevice.adopt(Fd.adopt(uapi.CreateDevice.decode(bytes).fd, nameOf(type)));
  }

  /** Takes ownership of a device's descriptor. */
  static adopt(fd: Fd): KvmDevice {
    return new KvmDevice(fd);
  }

  /** Whether the kernel has the type; creates nothing. @throws SysError EBADF */
  static isSupported(vm: Fd, type: number): boolean {
    const bytes = uapi.CreateDevice.encode({ type, flags: uapi.KVM_CREATE_DEVICE_TEST });
    return isThere(vm, uapi.KVM_CREATE_DEVICE, bytes, 'ENODEV');
  }

  /** Whether the device has the attribute. */
  hasAttr(group: number, attr: number): boolean {
    const bytes = uapi.DeviceAttr.encode({ group, attr: BigInt(attr) });
    return isThere(this.fd, uapi.KVM_HAS_DEVICE_ATTR, bytes, 'ENXIO');
  }

  /**
   * @param value the attribute's value, at most a page
   * @param about the request and target that an error names
   * @throws SysError ENXIO for an unknown attribute; other errors depend on the device
   */
  setAttr(
    group: number,
    attr: number,
    value: Uint8Array,
    about: { readonly request?: Request; readonly target?: string } = {},
  ): void {
    const { request = uapi.KVM_SET_DEVICE_ATTR, target = this.fd.target } = about;
    const padded = new Uint8Array(MOST_VALUE_BYTES);
    padded.set(value);
    this.#access(request, group, attr, padded, target);
  }

  /**
   * @param bytes size of the value @throws SysError ENXIO for an unknown attribute; EPERM if the device has none to
   *   read
   */
  getAttr(group: number, attr: number, bytes: number): Uint8Array {
    const value = new Uint8Array(MOST_VALUE_BYTES);
    this.#access(uapi.KVM_GET_DEVICE_ATTR, group, attr, value, this.fd.target);
    return value.slice(0, bytes);
  }

  #access(request: Request, group: number, attr: number, value: Uint8Array, target: string): void {
    withAddress(value, (address) => {
      const bytes = uapi.DeviceAttr.encode({ group, attr: BigInt(attr), addr: BigInt(address) });
      ioctl(this.fd, request, bytes, target);
    });
  }

  /** Closes the descriptor. kvm-vfio drops its files with it; other devices stay until the VM is destroyed. */
  [Symbol.dispose](): void {
    this.fd[Symbol.dispose]();
  }
}
