import type { PciEnvironment, PciFunction } from '../devices/contracts.js';
import { VfioPciDevice, type VfioPciOptions } from '../devices/vfio-pci/device.js';
import { errno } from '../sys/errno.js';
import { SysError } from '../sys/error.js';
import { Scope } from '../sys/scope.js';
import { type AssignableDevice, type DeviceFile, VfioProvider } from '../vfio/uapi.js';
import type { DeviceConfig } from './config.js';
import { type DeviceSpace, KvmAssociation } from './device-space.js';
import { attachStep } from './dma-maps.js';
import { GroupSpace } from './group-space.js';
import { inject, injectAll, injectable } from './injection.js';
import { IommufdSpace } from './iommufd-space.js';
import { MemoryMap } from './memory-map.js';
import { requireProvider } from './vfio-providers.js';

/** A device that the guest has, and how it came to it. */
export interface AssignedDevice extends Disposable {
  readonly device: AssignableDevice;
  /** Closed when this is disposed. */
  readonly file: DeviceFile;
  readonly function: PciFunction;
}

/** Attaches devices of any provider to the guest. Machine thread only. */
@injectable()
export class Assignment {
  readonly #providers: readonly VfioProvider[];
  readonly #memory: MemoryMap;
  readonly #kvm: KvmAssociation;
  readonly #spaces = new Map<string, DeviceSpace>();

  constructor(
    @injectAll(VfioProvider) providers: readonly VfioProvider[],
    @inject(MemoryMap) memory: MemoryMap,
    @inject(KvmAssociation) kvm: KvmAssociation,
  ) {
    this.#providers = providers;
    this.#memory = memory;
    this.#kvm = kvm;
  }

  /**
   * Finds (or creates) the device, opens its group, container and file, and makes a PCI function of it.
   * @param name as the guest's owner knows it: `00:03.0 virtio-net`
   * @throws SysError ENODEV if no provider takes the address, else of the step that failed; nothing is left open
   */
  attach(
    config: DeviceConfig,
    name: string,
    environment: PciEnvironment,
    options: VfioPciOptions,
  ): AssignedDevice {
    const provider = this.#providerOf(config.address);
    using scope = new Scope();
    const device = scope.own(provider.resolve(config.address, config.options));
    attachStep(`${config.address}: ${device.description}`);
    if (device.isNoiommu === true) throw noiommu(device);
    const { file } = scope.own(this.#spaceOf(provider, config.interface).open(device));
    const pciFunction = scope.own(VfioPciDevice.open(name, file, environment, options));
    const owned = scope.move();
    return { device, file, function: pciFunction, [Symbol.dispose]: () => owned[Symbol.dispose]() };
  }

  #providerOf(address: string): VfioProvider {
    return requireProvider(this.#providers, address);
  }

  /** Devices of one provider and interface share an address space. */
  #spaceOf(provider: VfioProvider, how: DeviceConfig['interface']): DeviceSpace {
    const key = `${provider.name} ${how}`;
    const known = this.#spaces.get(key);
    if (known !== undefined) return known;
    const Space = how === 'group' ? GroupSpace : IommufdSpace;
    const made = new Space(provider, this.#memory, this.#kvm);
    this.#spaces.set(key, made);
    return made;
  }
}

/** The guest's addresses would go out to the host's memory as they are. */
function noiommu({ name }: AssignableDevice): SysError {
  const hint =
    'no IOMMU translates its DMA (enable_unsafe_noiommu_mode), so it would reach the host’s memory instead of the ' +
    'guest’s; that mode is for drivers in user space. Boot the host with an IOMMU: VT-d or AMD-Vi in the firmware, ' +
    'intel_iommu=on';
  return new SysError({ call: 'attach', target: name, errno: errno.EPERM, hint });
}
