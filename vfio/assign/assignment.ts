import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { Scope } from '../../sys/scope.js';
import type { AssignableDevice, DeviceFile, VfioProvider } from '../uapi.js';
import { attachStep } from './attach-step.js';
import type { DeviceSpace } from './device-space.js';
import { GroupSpace } from './group-space.js';
import type { GuestMemory } from './guest-memory.js';
import { IommufdSpace } from './iommufd-space.js';
import type { KvmAssociation } from './kvm-association.js';
import type { PciFunction, PciFunctions, PciWiring } from './pci-functions.js';
import { requireProvider } from './require-provider.js';

/** How VFIO is used: groups and containers, or cdevs and iommufd. */
export type VfioInterface = 'group' | 'iommufd';

/** A device, and how it is to be attached. */
export interface AttachRequest extends PciWiring {
  /** What a provider takes: `0000:01:00.0`, `virtio-net`, the UUID of a mediated device, `vfio-user:/run/nic.sock`. */
  readonly address: string;
  /** Options of the address, as its provider takes them: `{ net: 'tap:tap0' }`. */
  readonly options?: Readonly<Record<string, string>>;
  /** `group` if absent. */
  readonly interface?: VfioInterface;
  /** How messages call the device; its address if absent. */
  readonly name?: string;
}

/** A device that the guest has. Disposing detaches it, closes it and undoes everything that attaching did, in reverse. */
export interface AssignedDevice extends Disposable {
  /** The device as its provider resolved it: name, group, description. */
  readonly device: AssignableDevice;
  /** Owned by this; closed when it is disposed. */
  readonly file: DeviceFile;
  /** To be put on the guest's PCI bus; taken off the bus before this is disposed. */
  readonly function: PciFunction;
}

/** Everything an {@link Assignment} needs of the hypervisor around it. */
export interface AssignmentParts {
  /** Guest memory that devices map for DMA; its listeners follow each change. */
  readonly memory: GuestMemory;
  /** Associates groups and cdevs with the VM, as kvm-vfio does. */
  readonly association: KvmAssociation;
  /** In the order in which they are asked whether an address is theirs. */
  readonly providers: readonly VfioProvider[];
  /** Makes a PCI function of an open device. */
  readonly functions: PciFunctions;
}

/**
 * Attaches VFIO devices of any provider to one VM, at any time of the guest's life. Used by the thread that owns the VM,
 * between exits. It owns nothing itself: each attached device belongs to the caller.
 */
export class Assignment {
  readonly #parts: AssignmentParts;
  readonly #spaces = {
    group: new Map<VfioProvider, DeviceSpace>(),
    iommufd: new Map<VfioProvider, DeviceSpace>(),
  };

  constructor(parts: AssignmentParts) {
    this.#parts = parts;
  }

  /**
   * Finds or creates the device; opens its group and container, or its cdev and IOAS; associates it with the VM; maps
   * guest memory for its DMA from now on; opens it and makes a PCI function of it.
   * @throws SysError ENODEV if no provider takes the address; EPERM for a device without an IOMMU; else of the step that
   *   failed. Everything before that step has been undone.
   */
  attach(request: AttachRequest): AssignedDevice {
    const { address, options = {}, interface: how = 'group', name = address } = request;
    const provider = requireProvider(this.#parts.providers, address);
    using scope = new Scope();
    const device = scope.own(provider.resolve(address, options));
    attachStep(`${address}: ${device.description}`);
    if (device.isNoiommu === true) throw noiommu(device);
    const { file } = scope.own(this.#spaceOf(provider, how).open(device));
    const pciFunction = scope.own(this.#parts.functions.open(name, file, request));
    const owned = scope.move();
    return { device, file, function: pciFunction, [Symbol.dispose]: () => owned[Symbol.dispose]() };
  }

  /** Devices of one provider and interface share an address space. */
  #spaceOf(provider: VfioProvider, how: VfioInterface): DeviceSpace {
    const spaces = this.#spaces[how];
    const known = spaces.get(provider);
    if (known !== undefined) return known;
    const { memory, association } = this.#parts;
    const Space = how === 'group' ? GroupSpace : IommufdSpace;
    const made = new Space(provider, memory, association);
    spaces.set(provider, made);
    return made;
  }
}

/** The guest's addresses would reach the host's memory untranslated. */
function noiommu({ name }: AssignableDevice): SysError {
  const hint =
    'no IOMMU translates its DMA (enable_unsafe_noiommu_mode), so it would reach the host’s memory instead of the ' +
    'guest’s; that mode is for drivers in user space. Boot the host with an IOMMU: VT-d or AMD-Vi in the firmware, ' +
    'intel_iommu=on';
  return new SysError({ call: 'attach', target: name, errno: errno.EPERM, hint });
}
