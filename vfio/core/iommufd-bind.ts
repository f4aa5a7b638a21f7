/** A device opened by its cdev and bound to an iommufd. After drivers/vfio/device_cdev.c and drivers/vfio/iommufd.c. */

import { iova as toIova } from '../../sys/address.js';
import { U64_END } from '../dma-range.js';
import type { KvmPointer } from '../driver.js';
import type { IommufdFile } from '../uapi.js';
import { vfioError } from '../vfio-error.js';
import type { VfioDevice } from './device.js';
import type { VfioGroup } from './group.js';
import { CoreIommufdFile, type Ioas, type Iommufd } from './iommufd.js';
import type { Steps } from './steps.js';

/** Prevents the group from being opened. @throws SysError EBUSY if it is open. @see vfio_device_block_group */
function* blockGroup(group: VfioGroup): Steps<void> {
  using _held = yield* group.groupRwsem.write();
  if (group.openedFile !== undefined || group.container !== undefined) {
    throw vfioError(
      'VFIO_DEVICE_BIND_IOMMUFD',
      group.target,
      'EBUSY',
      'its group is in use: close the group file',
    );
  }
  group.cdevOpenCount++;
}

function* unblockGroup(group: VfioGroup): Steps<void> {
  using _held = yield* group.groupRwsem.write();
  group.cdevOpenCount--;
}

/**
 * Opens the device for a cdev file.
 * @param kvmOf returns the VM that the file is associated with; called just before openDevice
 * @param vfToken the token that came with VFIO_DEVICE_BIND_FLAG_TOKEN
 * @throws SysError EBUSY while its group is open; EACCES and EINVAL as VfioDevice.matchToken; EINVAL if the device is open; ENODEV if its driver does not support
 *   iommufd; EBADF for an iommufd that is closed, EBADFD for another kind of file; any error of openDevice
 */
export function* bindIommufd(
  device: VfioDevice,
  file: IommufdFile,
  kvmOf: () => KvmPointer | null,
  vfToken?: string,
): Steps<BoundIommufd> {
  const call = 'VFIO_DEVICE_BIND_IOMMUFD';
  const { group, environment } = device;
  using _cause = environment.log.span('bind_iommufd', { device: device.name });
  let iommufd: Iommufd | undefined;
  let kvm: KvmPointer | undefined;
  yield* blockGroup(group);
  try {
    using _held = yield* device.set.lock.acquire();
    device.matchToken(call, vfToken);
    if (!(file instanceof CoreIommufdFile))
      throw vfioError(call, device.name, 'EBADFD', 'the file is not an iommufd of this core');
    iommufd = file.context(call);
    // The bound device takes over this reference, or the catch below drops it.
    iommufd.refs.get();
    if (device.openCount > 0) throw vfioError(call, device.name, 'EINVAL', 'the device is open');
    if (device.ops.hasIommufd === false) {
      throw vfioError(call, device.name, 'ENODEV', `driver ${device.ops.name} works with groups only`);
    }
    const known = kvmOf();
    if (known?.getUnlessDying()) kvm = known;
    yield* device.open(kvm, null);
    try {
      // The last step that can fail: here Linux copies the id to its caller.
      environment.allocate('iommufd device');
    } catch (error) {
      yield* device.close();
      throw error;
    }
  } catch (error) {
    yield* unblockGroup(group);
    iommufd?.put();
    kvm?.put();
    throw error;
  }
  return new BoundIommufd(device, iommufd, iommufd.addDevice(device.name), kvm);
}

export class BoundIommufd {
  /** The device's id in the iommufd. */
  readonly id: number;
  readonly #device: VfioDevice;
  readonly #iommufd: Iommufd;
  readonly #kvm: KvmPointer | undefined;
  #ioas: Ioas | undefined;

  constructor(device: VfioDevice, iommufd: Iommufd, id: number, kvm: KvmPointer | undefined) {
    this.#device = device;
    this.#iommufd = iommufd;
    this.id = id;
    this.#kvm = kvm;
    device.bound = { context: iommufd, id };
  }

  /**
   * Attaches the device to an IOAS, detaching it from its current one; does nothing if it is the same.
   * @throws SysError ENOENT for an unknown IOAS; EADDRINUSE if it cannot reach an IOVA that is mapped there, or a map is
   *   not made of whole pages
   */
  *attach(id: number): Steps<void> {
    const call = 'VFIO_DEVICE_ATTACH_IOMMUFD_PT';
    const device = this.#device;
    using _held = yield* device.set.lock.acquire();
    const ioas = this.#iommufd.ioas(call, id);
    if (ioas === this.#ioas) return;
    const own = device.dev.iommuGroup?.capabilities.iovaRanges ?? [];
    if (!ioas.suits(own))
      throw vfioError(call, device.name, 'EADDRINUSE', 'its IOMMU cannot reach what is mapped there');
    this.#revoke();
    this.#leave();
    ioas.users.set(this, own);
    this.#ioas = ioas;
    device.dma.attach(ioas.space);
    device.environment.log.event('attach_ioas', { device: device.name, ioas: id });
  }

  /** Detaches the device from its IOAS: its DMA fails until the next attach. */
  *detach(): Steps<void> {
    using _held = yield* this.#device.set.lock.acquire();
    this.#revoke();
    this.#leave();
  }

  /** Makes the driver unpin all pages, as an unmap of everything does. @see iommufd_access_change_ioas */
  #revoke(): void {
    if (this.#ioas !== undefined) this.#device.dma.dmaUnmap(toIova(0n), U64_END - 1n);
  }

  #leave(): void {
    if (this.#ioas === undefined) return;
    this.#device.dma.detach();
    this.#ioas.users.delete(this);
    this.#ioas = undefined;
    this.#device.environment.log.event('detach_ioas', { device: this.#device.name });
  }

  /** @see vfio_df_unbind_iommufd */
  *close(): Steps<void> {
    const device = this.#device;
    try {
      using _held = yield* device.set.lock.acquire();
      try {
        yield* device.close();
      } finally {
        device.bound = undefined;
        this.#leave();
      }
    } finally {
      this.#iommufd.removeDevice(this.id);
      device.environment.free('iommufd device');
      this.#iommufd.put();
      yield* unblockGroup(device.group);
      yield 'vfio_df_unbind_iommufd: before the VM is put';
      this.#kvm?.put();
    }
  }
}
