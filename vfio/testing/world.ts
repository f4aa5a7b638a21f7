/** A core for tests, with a fake clock, recording devices and a check for leaks. */
import { CoreContainerFile } from '../core/container.js';
import { type CoreOptions, VfioCore } from '../core/core.js';
import { VfioDevice } from '../core/device.js';
import { CoreDeviceFile } from '../core/device-file.js';
import type { CorePorts } from '../core/environment.js';
import { CoreGroupFile } from '../core/group-file.js';
import { HostDevice, type IommuCapabilities, type IommuGroup } from '../core/iommu-group.js';
import type { Steps } from '../core/steps.js';
import { VFIO_TYPE1v2_IOMMU } from '../uapi.js';
import { FakeClock } from './fake-clock.js';
import { RecordingDevice, type RecordingDeviceOptions } from './recording-device.js';

/** A device of a {@link World}. */
export interface WorldDevice {
  /** The host device. */
  readonly dev: HostDevice;
  /** The core's device. */
  readonly device: VfioDevice;
  /** The driver's side, which records its calls. */
  readonly ops: RecordingDevice;
}

/** A group with its files open, in a container with an IOMMU. */
export interface Contained {
  /** The open group, in {@link container}. */
  readonly group: CoreGroupFile;
  /** The open container, with VFIO_TYPE1v2_IOMMU set. */
  readonly container: CoreContainerFile;
  /** Closes both. */
  close(): void;
}

/** A core with a fake clock and recording devices; {@link end} checks for leaks. */
export class World {
  /** The core under test. */
  readonly core: VfioCore;
  /** The core's clock; it moves only when a test advances it. */
  readonly clock = new FakeClock();
  /** Warnings of the core; {@link end} fails unless {@link takeWarnings} has taken them. */
  readonly warnings: string[] = [];
  readonly #groups = new Set<IommuGroup>();
  #lastName = 0;

  constructor(
    options: { readonly ports?: Partial<CorePorts>; readonly enableUnsafeNoiommuMode?: boolean } = {},
  ) {
    const ports: Partial<CorePorts> = {
      clock: this.clock,
      warn: (text) => this.warnings.push(text),
      ...options.ports,
    };
    const all: CoreOptions = { ...options, ports };
    this.core = new VfioCore(all);
  }

  /** Creates an IOMMU group, which {@link end} releases. */
  iommuGroup(capabilities?: IommuCapabilities): IommuGroup {
    const group = this.core.createIommuGroup(capabilities);
    this.#groups.add(group);
    return group;
  }

  /** Creates a host device in a group, bound to a vfio driver but not registered. */
  prepare(
    options: RecordingDeviceOptions & {
      readonly group?: IommuGroup | undefined;
      readonly name?: string;
    } = {},
  ): WorldDevice {
    const name = options.name ?? `0000:00:${(this.#lastName++).toString(16).padStart(2, '0')}.0`;
    const dev = new HostDevice(name);
    dev.driver = 'recording';
    const group = 'group' in options ? options.group : this.iommuGroup();
    if (group !== undefined) this.core.run(group.addDevice(dev));
    const ops = new RecordingDevice(name, options);
    return { dev, ops, device: VfioDevice.init(this.core.registry, dev, ops) };
  }

  /** As {@link prepare}, and registers the device. */
  device(
    options: RecordingDeviceOptions & {
      readonly group?: IommuGroup | undefined;
      readonly name?: string;
    } = {},
  ): WorldDevice {
    const made = this.prepare(options);
    this.core.run(made.device.register());
    return made;
  }

  /** Opens a group's file. @throws SysError ENODEV for an unknown group; EBUSY if it is open */
  openGroup(number: number): CoreGroupFile {
    return this.core.run(this.groupSteps(number));
  }

  /** As {@link openGroup}, for a scheduler. */
  groupSteps(number: number): Steps<CoreGroupFile> {
    return CoreGroupFile.openSteps(this.core.registry, number);
  }

  /** Opens a new container. */
  openContainer(): CoreContainerFile {
    return CoreContainerFile.open(this.core.environment);
  }

  /**
   * Opens a device's cdev.
   * @param node `vfio0`
   * @throws SysError ENODEV
   */
  openCdev(node: string): CoreDeviceFile {
    return CoreDeviceFile.openCdev(this.core.registry, node);
  }

  /** Opens a device's group and attaches it to a container, a new one if `into` is absent. */
  contain({ device }: WorldDevice, into?: CoreContainerFile): Contained {
    const group = this.openGroup(device.group.number);
    const container = into ?? this.openContainer();
    group.setContainer(container);
    if (into === undefined) container.setIommu(VFIO_TYPE1v2_IOMMU);
    return {
      group,
      container,
      close() {
        group[Symbol.dispose]();
        container[Symbol.dispose]();
      },
    };
  }

  /** VFIO_GROUP_GET_DEVICE_FD of a device in its open group. */
  open({ group }: { readonly group: CoreGroupFile }, { device }: WorldDevice): CoreDeviceFile {
    return this.core.run(group.getDeviceFdSteps(device.name));
  }

  /** Returns the warnings so far, and clears them. */
  takeWarnings(): string[] {
    return this.warnings.splice(0);
  }

  /** Unregisters devices that are not in use. */
  remove(...devices: readonly WorldDevice[]): void {
    for (const { device } of devices) this.core.run(device.unregister());
  }

  /** Releases the world's groups. Returns warnings that were not taken, and objects that were not freed. */
  leftovers(): string[] {
    for (const group of this.#groups) group.put();
    this.#groups.clear();
    const live = [...this.core.live].map(([kind, count]) => `${count} ${kind}`);
    const { environment, registry } = this.core;
    if (registry.groups.size > 0) live.push(`groups ${[...registry.groups.keys()].join(', ')} on the list`);
    if (registry.cdevs.size > 0) live.push(`cdevs ${[...registry.cdevs.keys()].join(', ')}`);
    if (environment.executor.current.held.length > 0) live.push('locks held');
    return [...this.takeWarnings(), ...live];
  }

  /** @throws Error if there are {@link leftovers} */
  end(): void {
    const left = this.leftovers();
    if (left.length > 0) throw new Error(`left over in the end: ${left.join('; ')}`);
  }
}
