import { channel } from 'node:diagnostics_channel';

/** A VM exit that is handled in user space. */
export interface ExitEvent {
  /** Number of the vCPU. */
  readonly vcpu: number;
  /** The decoded exit; `kind` as in kvm/exits.ts. Valid only while the listener runs. */
  readonly exit: { readonly kind: string };
}

/** An access to an address that no device claims. */
export interface UnclaimedEvent {
  /** `pio` or `mmio`. */
  readonly bus: string;
  /** Port number, or guest physical address. */
  readonly address: number;
  /** Width of the access in bytes. */
  readonly bytes: number;
  /** False for a read, which returns all-ones. */
  readonly isWrite: boolean;
}

/** The guest violated a device's specification. */
export interface GuestMisuseEvent {
  /** Name of the device. */
  readonly device: string;
  /** The part of the device: `region`, `bar`, `virtio`. */
  readonly what: string;
  /** The violation, as readable text. */
  readonly text: string;
}

/** A trapped access to a region of an assigned device. */
export interface RegionEvent {
  /** Name of the device. */
  readonly device: string;
  /** Index of the region. */
  readonly region: number;
  /** Offset from the region's start, in bytes. */
  readonly address: number;
  /** Length of the access in bytes. */
  readonly bytes: number;
  /** Whether the guest wrote. */
  readonly isWrite: boolean;
  /** The value read or written, decoded as little-endian. */
  readonly value: bigint;
}

/**
 * An operation of VFIO, in the core or around it: VM association, open and close, maps, interrupts. Which of the other
 * fields are present depends on `what`.
 */
export interface VfioEvent {
  /** The operation, by the kernel's name: `set_kvm`, `open_device`. */
  readonly what: string;
  /** Sequence number within one core, from 1; absent for events from outside a core. */
  readonly seq?: number;
  /** `seq` of the event that caused this one; 0 if a caller of the core did. */
  readonly cause?: number;
  /** Name of the core's task that ran the operation. */
  readonly task?: string;
  /** Readable text, such as a warning's. */
  readonly text?: string;
  /** `warn`: the text is a warning, which a person should see; absent for steps. */
  readonly level?: 'warn';
  /** Name of the device: a PCI address or a UUID. */
  readonly device?: string;
  /** Name of the device's node under /dev/vfio/devices: `vfio0`. */
  readonly cdev?: string;
  /** Name of the device's driver, or of the IOMMU driver. */
  readonly driver?: string | undefined;
  /** Number of the group. */
  readonly group?: number;
  /** Name of the VM, `kvm 1`; null for none. */
  readonly kvm?: string | null;
  /** The VFIO file that was added to or removed from kvm-vfio. */
  readonly file?: string;
  /** Name of a notifier's listener. */
  readonly listener?: string;
  /** IOMMU_GROUP_NOTIFY_ value. */
  readonly event?: number;
  /** IOMMU type, such as VFIO_TYPE1v2_IOMMU. */
  readonly type?: number;
  /** Id of an I/O address space. */
  readonly ioas?: number;
  /** First IOVA of a map or an unmap. */
  readonly iova?: bigint;
  /** Length of the map or of the range to unmap, in bytes. */
  readonly size?: bigint;
  /** Bytes that an unmap removed. */
  readonly unmapped?: bigint;
  /** Host virtual address of a map. */
  readonly vaddr?: bigint;
  /** PROT_ bits of a map. */
  readonly prot?: number;
  /** SET_IRQS: the interrupt index. */
  readonly index?: number;
  /** SET_IRQS: VFIO_IRQ_SET_ bits. */
  readonly flags?: number;
  /** SET_IRQS: the first interrupt. */
  readonly start?: number;
  /** SET_IRQS: number of interrupts. `request`: how many requests came before. */
  readonly count?: number;
}

/** A vfio-user peer violated the protocol, or a request of it was refused. */
export interface VfioUserEvent {
  /** `serve`: the peer is a client of this process; `request refused`: the peer is a server. */
  readonly what: string;
  /** Path of the socket, or name of the connection. */
  readonly peer: string;
  /** The cause, as readable text. */
  readonly text: string;
}

/** A hostile device mutated what its guest sees. */
export interface MutationEvent {
  /** Name of the device's driver. */
  readonly device: string;
  /** Which one of the device's. */
  readonly number: number;
  /** What, by the name that is the same in each run: `value/bar0.0x14.4#3`. */
  readonly label: string;
  /** How: `flipped`, `lost`. */
  readonly action: string;
  /** Up to four bytes, or a vector, as they would have been. */
  readonly before: number;
  /** And as they were. */
  readonly after: number;
}

/** A library that could have called KVM_RUN, and cannot. */
export interface DoorEvent {
  /** Name of the library. */
  readonly door: string;
  /** The cause, as readable text. */
  readonly text: string;
}

/** A change of the guest's memory map, or of KVM's slots. */
export interface MemoryEvent {
  /** The change; the `slot` ones are those of KVM's memory slots. */
  readonly what: 'added' | 'removed' | 'slot added' | 'slot removed';
  /** Name of the region, or number of the slot. */
  readonly name: string;
  /** First guest physical address. */
  readonly gpa: bigint;
  /** First host virtual address. */
  readonly hva: bigint;
  /** Length in bytes. */
  readonly bytes: bigint;
  /** The guest physical range as text, first and last byte: `0x1000-0x1fff`. */
  readonly range: string;
}

/**
 * A typed channel of node:diagnostics_channel. Publish behind `if (channel.hasSubscribers)`: a channel without
 * subscribers then costs a nanosecond or two, and no event is built.
 */
export class TraceChannel<Event extends object> {
  // Keeps the channel alive: diagnostics_channel holds it by weak reference.
  readonly #channel: ReturnType<typeof channel>;

  /** @param name `tsvisor:vfio` */
  constructor(name: string) {
    this.#channel = channel(name);
  }

  /** The channel's name in diagnostics_channel: `tsvisor:vfio`. */
  get name(): string {
    return String(this.#channel.name);
  }

  /** Whether this thread has subscribers; cheap enough to check on hot paths. */
  get hasSubscribers(): boolean {
    return this.#channel.hasSubscribers;
  }

  /**
   * Calls all listeners in the order of their subscription, before it returns. An exception of a listener becomes an
   * uncaught exception of the process; the publisher does not see it.
   */
  publish(event: Event): void {
    this.#channel.publish(event);
  }

  /** Adds a listener. @param listener called synchronously in the publishing thread; keep it short */
  subscribe(listener: (event: Event) => void): void {
    // Only publish() writes to the channel, so its events have the type.
    this.#channel.subscribe(listener as (event: unknown) => void);
  }

  /** Removes a listener. @param listener the function passed to {@link subscribe} */
  unsubscribe(listener: (event: Event) => void): void {
    this.#channel.unsubscribe(listener as (event: unknown) => void);
  }
}

/** Every trace channel of the package. Channels are per thread: subscribe in the thread whose events you want. */
export const trace = {
  /** VM exits handled in user space. */
  exit: new TraceChannel<ExitEvent>('tsvisor:kvm.exit'),
  /** Port and MMIO accesses that no device claims. */
  unclaimed: new TraceChannel<UnclaimedEvent>('tsvisor:bus.unclaimed'),
  /** Violations of a device's specification by the guest. */
  guestMisuse: new TraceChannel<GuestMisuseEvent>('tsvisor:guest.misuse'),
  /** Trapped accesses to regions of assigned devices. */
  region: new TraceChannel<RegionEvent>('tsvisor:vfio.region'),
  /** Operations of VFIO. */
  vfio: new TraceChannel<VfioEvent>('tsvisor:vfio'),
  /** Protocol violations and refused requests of vfio-user peers. */
  vfioUser: new TraceChannel<VfioUserEvent>('tsvisor:vfio.user'),
  /** Changes of the guest's memory map and of KVM's memory slots. */
  memory: new TraceChannel<MemoryEvent>('tsvisor:memory'),
  /** What hostile devices do to their guests. */
  mutation: new TraceChannel<MutationEvent>('tsvisor:hostile.mutation'),
  /** FFI libraries for KVM_RUN that are there and do not work. */
  door: new TraceChannel<DoorEvent>('tsvisor:kvm.door'),
};

/** Name of a trace channel: a key of {@link trace}. */
export type TraceName = keyof typeof trace;
