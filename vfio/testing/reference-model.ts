/**
 * A model of a VFIO core in as little code as possible: counts and lists, no locks, no chains. Histories of random
 * commands run against the model and the core side by side.
 */

/** A container of the model. */
export interface ModelContainer {
  hasIommu: boolean;
  readonly groups: Set<ModelGroup>;
}

export interface ModelGroup {
  readonly devices: ModelDevice[];
  /** The opener's handle. */
  isHandleOpen: boolean;
  isAssociated: boolean;
  container: ModelContainer | undefined;
  /** Number of the VM; undefined for none. */
  kvm: number | undefined;
  /** Registered listeners by number, oldest first. */
  listeners: number[];
  /** Whether the host has bound a driver of its own to the group's other device. */
  isIntruded: boolean;
}

export interface ModelDevice {
  readonly group: ModelGroup;
  state: 'gone' | 'registered' | 'leaving';
  /** Whether it was its group's last device when its users were done, so that it waits for the group's detaching. */
  isLast: boolean | undefined;
  /** Files from GET_DEVICE_FD. */
  opens: number;
  cdev: 'closed' | 'open' | 'bound';
  /** The VM that it has held since its first open. */
  kvm: number | undefined;
}

/** errno's name, or undefined for success. */
export type Outcome = string | undefined;

export class ReferenceModel {
  readonly groups: readonly ModelGroup[];
  readonly devices: readonly ModelDevice[];
  /** The events of each listener: a VM's number, or null. */
  readonly heard: (number | null)[][];

  /** @param groupOf group of each device */
  constructor(groupOf: readonly number[], listeners: number) {
    this.groups = Array.from({ length: Math.max(...groupOf) + 1 }, () => ({
      devices: [],
      isHandleOpen: false,
      isAssociated: false,
      container: undefined,
      kvm: undefined,
      listeners: [],
      isIntruded: false,
    }));
    this.devices = groupOf.map((index) => {
      const group = this.groups[index] as ModelGroup;
      const device: ModelDevice = {
        group,
        state: 'gone',
        isLast: undefined,
        opens: 0,
        cdev: 'closed',
        kvm: undefined,
      };
      group.devices.push(device);
      return device;
    });
    this.heard = Array.from({ length: listeners }, () => []);
  }

  isFileAlive(group: ModelGroup): boolean {
    return group.isHandleOpen || group.isAssociated;
  }

  /** Registered devices and open files keep the group. */
  exists(group: ModelGroup): boolean {
    return this.isFileAlive(group) || group.devices.some(({ state, opens }) => state !== 'gone' || opens > 0);
  }

  users(group: ModelGroup): number {
    if (group.container === undefined) return 0;
    const own = this.isContainedByFile(group) ? 1 : 0;
    return own + group.devices.reduce((sum, { opens }) => sum + opens, 0);
  }

  /** Whether the group's own container user exists, which ends with its file. */
  isContainedByFile(group: ModelGroup): boolean {
    return this.isFileAlive(group);
  }

  isUsable(group: ModelGroup): boolean {
    return group.container?.hasIommu === true && !group.isIntruded;
  }

  /** After each command: frees the objects without users. */
  settle(): void {
    for (const group of this.groups) {
      if (group.container !== undefined && this.users(group) === 0) this.leave(group);
      for (const device of group.devices) {
        if (device.state !== 'leaving' || device.opens > 0 || device.cdev !== 'closed') continue;
        device.isLast ??= !group.devices.some(({ state }) => state === 'registered');
        if (device.isLast && group.container !== undefined) continue;
        device.state = 'gone';
        device.isLast = undefined;
      }
      if (!this.exists(group)) group.listeners = [];
    }
  }

  leave(group: ModelGroup): void {
    const { container } = group;
    if (container === undefined) return;
    container.groups.delete(group);
    if (container.groups.size === 0) container.hasIommu = false;
    group.container = undefined;
  }

  openGroup(group: ModelGroup): Outcome {
    if (!this.exists(group)) return 'ENODEV';
    if (group.devices.some(({ cdev }) => cdev === 'bound')) return 'EBUSY';
    if (this.isFileAlive(group) || group.container !== undefined) return 'EBUSY';
    group.isHandleOpen = true;
    group.listeners = [];
    return undefined;
  }

  closeGroup(group: ModelGroup): void {
    group.isHandleOpen = false;
  }

  setContainer(group: ModelGroup, container: ModelContainer): Outcome {
    if (this.users(group) > 0) return 'EINVAL';
    group.container = container;
    container.groups.add(group);
    return undefined;
  }

  unsetContainer(group: ModelGroup): Outcome {
    if (this.users(group) === 0) return 'EINVAL';
    if (this.users(group) > 1) return 'EBUSY';
    this.leave(group);
    return undefined;
  }

  setIommu(container: ModelContainer): Outcome {
    if (container.groups.size === 0 || container.hasIommu) return 'EINVAL';
    container.hasIommu = true;
    return undefined;
  }

  getDeviceFd(device: ModelDevice): Outcome {
    const { group } = device;
    if (this.users(group) === 0 || !this.isUsable(group)) return 'EINVAL';
    if (device.state !== 'registered') return 'ENODEV';
    if (device.opens === 0) device.kvm = group.kvm;
    device.opens++;
    return undefined;
  }

  closeDevice(device: ModelDevice): void {
    device.opens--;
    if (device.opens === 0) device.kvm = undefined;
  }

  openCdev(device: ModelDevice): Outcome {
    if (device.state !== 'registered') return 'ENODEV';
    device.cdev = 'open';
    return undefined;
  }

  bind(device: ModelDevice): Outcome {
    const { group } = device;
    if (device.cdev === 'bound') return 'EINVAL';
    if (this.isFileAlive(group) || group.container !== undefined) return 'EBUSY';
    device.cdev = 'bound';
    return undefined;
  }

  setKvm(group: ModelGroup, kvm: number | undefined): void {
    if (!this.isFileAlive(group)) return;
    group.kvm = kvm;
    group.isAssociated = kvm !== undefined;
    for (const listener of group.listeners) this.heard[listener]?.push(kvm ?? null);
  }

  registerListener(group: ModelGroup, listener: number): Outcome {
    if (this.users(group) === 0 || !this.isUsable(group)) return 'EINVAL';
    if (group.listeners.includes(listener)) return 'EEXIST';
    group.listeners.push(listener);
    if (group.kvm !== undefined) this.heard[listener]?.push(group.kvm);
    return undefined;
  }

  unregisterListener(group: ModelGroup, listener: number): Outcome {
    if (!group.listeners.includes(listener)) return 'ENOENT';
    group.listeners = group.listeners.filter((other) => other !== listener);
    return undefined;
  }
}
