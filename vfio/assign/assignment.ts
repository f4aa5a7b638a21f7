import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { EventThread } from '../../sys/event-task.js';
import { firstFailure, Scope } from '../../sys/scope.js';
import { noiommuRefusal } from '../noiommu-refusal.js';
import type { AssignableDevice, RequestedDevice, VfioProvider } from '../provider.js';
import { providerOf } from '../provider-of.js';
import { type SriovFunctions, sriovWith } from '../sriov.js';
import type { DeviceFile } from '../uapi.js';
import { attachStep } from './attach-step.js';
import type { DeviceSpace } from './device-space.js';
import { GroupSpace } from './group-space.js';
import type { GuestMemory } from './guest-memory.js';
import { heldFunction } from './held-function.js';
import { IommufdSpace } from './iommufd-space.js';
import type { KvmAssociation } from './kvm-association.js';
import type { OpenedVf, PciFunction, PciFunctions, PciWiring } from './pci-functions.js';
import { requireProvider } from './require-provider.js';

/** The VFIO interface in use: groups and a container, or cdevs and an iommufd. */
export type VfioInterface = 'group' | 'iommufd';

/** The device to attach, its options and its wiring. */
export interface AttachRequest extends PciWiring {
  /**
   * Address of the device, as its provider matches it: `0000:01:00.0`, `virtio-net`, the UUID of a mediated device,
   * `vfio-user:/run/nic.sock`.
   */
  readonly address: string;
  /** Options of the provider or the vendor driver: `{ net: 'tap:tap0' }`. */
  readonly options?: Readonly<Record<string, string>>;
  /** Default: `group`. */
  readonly interface?: VfioInterface;
  /** The device's name in messages. Default: its address. */
  readonly name?: string;
}

/** An attached device. Disposing it reverts each step of attaching, in reverse order, and closes the device. */
export interface AssignedDevice extends Disposable {
  /** The device as its provider resolved it: name, group, description. */
  readonly device: AssignableDevice;
  /** Name of its provider: `core`, `host`, `vfio-user`. */
  readonly provider: string;
  /** The interface by which it is open. */
  readonly interface: VfioInterface;
  /** The open device file; closed on dispose. */
  readonly file: DeviceFile;
  /** The caller puts it on the guest's PCI bus, and removes it from the bus before disposing the device. */
  readonly function: PciFunction;
  /**
   * A VF that the guest has enabled, as the provider made it; undefined while it is not there. Absent if the device has none.
   * @param index from 0 on
   */
  vf?(index: number): AssignableDevice | undefined;
}

/** How devices are attached. */
export interface AttachOptions {
  /**
   * Maps guest RAM for DMA in this thread while the caller goes on, as pinning takes long: about 0.25 s for 1 GiB. A device that
   * waits for it ({@link AssignableDevice.waitsForMastering}) masters the bus once that is done: {@link AssignedDevice.function} then
   * waits at the guest's write. All others are attached as without this. A failure is thrown where the thread's messages are heard, so
   * it is for a machine that starts, and ends then. Absent: attaching returns when all is mapped, and fails if it cannot be.
   */
  readonly mapIn?: EventThread | undefined;
}

/** The ports of an {@link Assignment}. */
export interface AssignmentParts {
  /** Guest memory to map for DMA. */
  readonly memory: GuestMemory;
  /** Associates groups and cdevs with the VM, as kvm-vfio does. */
  readonly association: KvmAssociation;
  /** The first that matches an address resolves it. */
  readonly providers: readonly VfioProvider[];
  /** Opens a PCI function over a device file. */
  readonly functions: PciFunctions;
}

/**
 * Attaches VFIO devices of any provider to one VM, before the guest boots or while it runs. Used by the thread that owns
 * the VM, between exits. The caller owns each attached device. Disposing the assignment detaches the devices that are
 * left, last attached first, and refuses others.
 */
export class Assignment implements Disposable {
  readonly #parts: AssignmentParts;
  readonly #attached = new Set<AssignedDevice>();
  #isDisposed = false;
  #isHolding = false;
  readonly #spaces = {
    group: new Map<VfioProvider, DeviceSpace>(),
    iommufd: new Map<VfioProvider, DeviceSpace>(),
  };

  constructor(parts: AssignmentParts) {
    this.#parts = parts;
  }

  /**
   * Finds or creates the device; opens its group and container, or its cdev and iommufd; associates it with the VM; maps
   * guest memory for its DMA, and follows changes of it; opens the device and a PCI function over it.
   * @throws SysError ENODEV if no provider matches the address; EPERM for a device without an IOMMU; EBADF once the
   *   assignment is disposed; else the error of the failed step. Earlier steps are then reverted; what fails of that is the
   *   error's `suppressed` list. TypeError for a request without an address, or an unknown interface
   */
  attach(request: AttachRequest): AssignedDevice {
    try {
      return this.#attach(request);
    } catch (error) {
      throw firstFailure(error);
    }
  }

  /**
   * Attaches several devices, all or none: the members of an IOMMU group, for example. If one fails, those before it are
   * detached, last attached first. The caller owns each of them, and can detach them one by one.
   * @throws as {@link attach} for the device that failed
   */
  attachAll(requests: readonly AttachRequest[], options: AttachOptions = {}): readonly AssignedDevice[] {
    const attachEach = (undo: Scope) => requests.map((request) => undo.own(this.#attach(request)));
    return this.together(requests, attachEach, options);
  }

  /**
   * Lets providers make ready what devices that belong together need of each other, such as the drivers of an IOMMU group's
   * functions (option `bind`), and calls `attachEach`, which attaches them one by one. For a caller that does something
   * between one and the next; else use {@link attachAll}.
   * @param attachEach gives `undo` what it attaches, which is detached if this fails
   * @throws SysError of a provider, before `attachEach` is called; what that throws; as {@link EventThread.run}
   */
  together<T>(
    devices: readonly RequestedDevice[],
    attachEach: (undo: Scope) => T,
    { mapIn }: AttachOptions = {},
  ): T {
    try {
      using scope = new Scope();
      this.#isHolding = mapIn !== undefined;
      scope.defer(() => {
        this.#isHolding = false;
      });
      const { providers } = this.#parts;
      for (const provider of providers) {
        const own = devices.filter(({ address }) => providerOf(providers, address) === provider);
        // In this order: to ask a provider for more than its addresses may load it.
        if (own.length === 0 || provider.prepare === undefined) continue;
        scope.own(provider.prepare(own));
      }
      using undo = new Scope();
      const result = attachEach(undo);
      if (mapIn !== undefined) for (const space of this.#allSpaces()) space.dma?.begin(mapIn);
      undo.move();
      return result;
    } catch (error) {
      throw firstFailure(error);
    }
  }

  #attach(request: AttachRequest): AssignedDevice {
    const { address, options = {}, interface: how = 'group', name = address } = request;
    if (typeof address !== 'string')
      throw new TypeError("attach takes { address }, such as { address: '0000:01:00.0' }");
    if (this.#isDisposed)
      throw new SysError({
        call: 'attach',
        target: name,
        errno: errno.EBADF,
        hint: 'the assignment is disposed',
      });
    const provider = requireProvider(this.#parts.providers, address);
    using scope = new Scope();
    const device = scope.own(provider.resolve(address, options));
    attachStep(`${address}: ${device.description}`);
    if (device.isNoiommu === true) throw noiommuRefusal(device.name);
    const space = this.#spaceOf(provider, how);
    const isHeld = this.#isHolding && device.waitsForMastering === true;
    const { file, slot } = scope.own(space.open(device, isHeld));
    const present = new Map<number, AssignableDevice>();
    const vfs = device.sriov && openedVfs(device.sriov, space, present);
    const pciFunction = scope.own(this.#parts.functions.open(name, file, request, slot, vfs));
    scope.defer(() => this.#attached.delete(assigned));
    const owned = scope.move();
    const close = () => owned[Symbol.dispose]();
    const assigned: AssignedDevice = {
      device,
      provider: provider.name,
      interface: how,
      file,
      function: isHeld ? heldFunction(pciFunction, () => space.dma?.settle()) : pciFunction,
      ...(vfs && { vf: (index: number) => present.get(index) }),
      [Symbol.dispose]: close,
    };
    this.#attached.add(assigned);
    return assigned;
  }

  /**
   * Resets all attached devices, as a machine reset does: functions of one slot together where that is possible. Call it
   * before detaching several devices at the end of a run, when the guest no longer uses any. Never throws.
   * @param isFinal the guest has ended: interrupts stay off. Default: false
   */
  reset(isFinal = false): void {
    this.#parts.functions.reset?.(isFinal);
  }

  /** Detaches every device that is left. */
  [Symbol.dispose](): void {
    this.#isDisposed = true;
    if (this.#attached.size > 0) this.reset(true);
    using scope = new Scope();
    for (const assigned of this.#attached) scope.own(assigned);
  }

  #allSpaces(): DeviceSpace[] {
    return Object.values(this.#spaces).flatMap((byProvider) => [...byProvider.values()]);
  }

  /** Devices of one provider share an address space per interface. */
  #spaceOf(provider: VfioProvider, how: VfioInterface): DeviceSpace {
    const spaces = this.#spaces[how];
    if (spaces === undefined) throw new TypeError(`attach: interface '${how}' is neither group nor iommufd`);
    const known = spaces.get(provider);
    if (known !== undefined) return known;
    const { memory, association } = this.#parts;
    const Space = how === 'group' ? GroupSpace : IommufdSpace;
    const made = new Space(provider, memory, association);
    spaces.set(provider, made);
    return made;
  }
}

/**
 * The VFs of a device, opened as the device itself is, in the same address space.
 * @param present gets each of them as long as it is there
 */
function openedVfs(
  sriov: SriovFunctions<AssignableDevice>,
  space: DeviceSpace,
  present: Map<number, AssignableDevice>,
): SriovFunctions<OpenedVf> {
  return sriovWith(sriov, (index) => {
    using scope = new Scope();
    const device = scope.own(sriov.create(index));
    attachStep(device.description);
    const { file } = scope.own(space.open(device));
    present.set(index, device);
    scope.defer(() => present.delete(index));
    const owned = scope.move();
    return { file, [Symbol.dispose]: () => owned[Symbol.dispose]() };
  });
}
