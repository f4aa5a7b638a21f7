import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { Scope } from '../../sys/scope.js';
import { cdevsOf } from '../interfaces.js';
import type { AssignableDevice, VfioCdevs, VfioProvider } from '../provider.js';
import type { IommufdFile } from '../uapi.js';
import { associate } from './associate.js';
import { attachStep } from './attach-step.js';
import type { DeviceSpace, OpenedDevice } from './device-space.js';
import { DmaMaps, type DmaTarget } from './dma-maps.js';
import type { GuestMemory } from './guest-memory.js';
import type { KvmAssociation } from './kvm-association.js';
import { slotResetByIommufd } from './slot-reset.js';

/** The modern interface: an iommufd with one IOAS, and devices opened by their cdevs. */
export class IommufdSpace implements DeviceSpace {
  readonly #provider: VfioProvider;
  readonly #memory: GuestMemory;
  readonly #kvm: KvmAssociation;
  #iommufd: { readonly file: IommufdFile; readonly ioas: number } | undefined;
  #maps: (Disposable & { readonly dma: DmaMaps }) | undefined;
  #users = 0;

  constructor(provider: VfioProvider, memory: GuestMemory, kvm: KvmAssociation) {
    this.#provider = provider;
    this.#memory = memory;
    this.#kvm = kvm;
  }

  open(device: AssignableDevice, isHeld = false): OpenedDevice {
    const cdevs = cdevsOf(this.#provider);
    if (device.cdev === undefined) {
      const hint =
        'its kernel or driver has no VFIO cdev: leave interface=iommufd out, and its group is used';
      throw new SysError({ call: 'open cdev', target: device.name, errno: errno.ENODEV, hint });
    }
    using scope = new Scope();
    if (!isHeld) this.dma?.settle();
    scope.defer(() => this.#closeIfUnused());
    const { file: iommufd, ioas } = this.#openIommufd(cdevs);
    const file = scope.own(cdevs.openCdev(device.cdev));
    // Before the bind, which opens the device: its driver may need the VM in open_device.
    scope.own(associate(this.#kvm, this.#provider, file, device.cdev));
    file.bindIommufd(iommufd, device.vfToken);
    attachStep(`device ${device.name} is open (VFIO_DEVICE_BIND_IOMMUFD)`);
    file.attachIoas(ioas);
    scope.defer(() => file.detachIoas());
    attachStep(`device ${device.name} is attached to IOAS ${ioas}`);
    this.#startMapping(iommufd, ioas, isHeld);
    this.#users++;
    scope.defer(() => this.#release());
    const owned = scope.move();
    const slot = slotResetByIommufd(device, file);
    return { file, ...(slot === undefined ? {} : { slot }), [Symbol.dispose]: () => owned[Symbol.dispose]() };
  }

  get dma(): DmaMaps | undefined {
    return this.#maps?.dma;
  }

  #openIommufd(cdevs: VfioCdevs): { readonly file: IommufdFile; readonly ioas: number } {
    if (this.#iommufd !== undefined) return this.#iommufd;
    using scope = new Scope();
    const file = scope.own(cdevs.openIommufd());
    const opened = { file, ioas: file.ioasAlloc() };
    scope.move();
    this.#iommufd = opened;
    return opened;
  }

  /** After the attach, the reserved regions of the device's IOMMU are known, so a colliding map fails by name. */
  #startMapping(iommufd: IommufdFile, ioas: number, isHeld: boolean): void {
    if (this.#maps !== undefined) return;
    const call = iommufd.ioasMapCall?.bind(iommufd);
    const target: DmaTarget = {
      map: (map) => void iommufd.ioasMap(ioas, map),
      ...(call && { mapCall: (map) => call(ioas, map) }),
      unmap: (iova, size) => void iommufd.ioasUnmap(ioas, { iova, size }),
    };
    const dma = new DmaMaps(target, `${this.#provider.name} IOAS ${ioas}`, isHeld);
    this.#maps = { dma, ...this.#memory.listen(dma) };
  }

  #release(): void {
    if (--this.#users > 0) return;
    this.#maps?.[Symbol.dispose]();
    this.#maps = undefined;
  }

  #closeIfUnused(): void {
    if (this.#users > 0) return;
    this.#iommufd?.file[Symbol.dispose]();
    this.#iommufd = undefined;
  }
}
