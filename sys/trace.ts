import { channel } from 'node:diagnostics_channel';

/** An exit that is handled in user space. */
export interface ExitEvent {
  /** Number of the vCPU. */
  readonly vcpu: number;
  /** What KVM says of it; `kind` as in kvm/exits.ts. Valid during the call only. */
  readonly exit: { readonly kind: string };
}

/** An access that no device answered. */
export interface UnclaimedEvent {
  /** `pio` or `mmio`. */
  readonly bus: string;
  /** Port number, or guest physical address. */
  readonly address: number;
  readonly bytes: number;
  readonly isWrite: boolean;
}

/** A guest did something that no driver should. */
export interface GuestMisuseEvent {
  /** Name of the device. */
  readonly device: string;
  /** Which part of it: `bar`, `queue`, `msi`. */
  readonly what: string;
  /** For a person. */
  readonly text: string;
}

/** A trapped access to a region of an assigned device. */
export interface RegionEvent {
  /** Name of the device. */
  readonly device: string;
  /** Index of the region. */
  readonly region: number;
  /** Offset in the region. */
  readonly address: number;
  readonly bytes: number;
  readonly isWrite: boolean;
  /** Little-endian: what was read or written. */
  readonly value: bigint;
}

/**
 * What VFIO does, in the core and around it: associations, open and close, maps, interrupts. `what` decides which of the
 * other fields are there.
 */
export interface VfioEvent {
  /** Kernel's word for what happens: `set_kvm`, `open_device`. */
  readonly what: string;
  /** Counts from 1 within one core; absent for what happens outside of a core. */
  readonly seq?: number;
  /** `seq` of the event this one follows from; 0 if it came from outside. */
  readonly cause?: number;
  /** Task of the core that did it. */
  readonly task?: string;
  /** For a person. */
  readonly text?: string;
  /** Names of the device, its node, its driver, or the IOMMU's driver. */
  readonly device?: string;
  readonly cdev?: string;
  readonly driver?: string | undefined;
  /** Number of the group. */
  readonly group?: number;
  /** The VM: null for none. */
  readonly kvm?: string | null;
  /** A file as kvm-vfio has it. */
  readonly file?: string;
  /** Name of a notifier's listener. */
  readonly listener?: string;
  /** IOMMU_GROUP_NOTIFY_ value. */
  readonly event?: number;
  /** VFIO_ type of IOMMU. */
  readonly type?: number;
  /** Id of an I/O address space. */
  readonly ioas?: number;
  readonly iova?: bigint;
  /** Bytes of a map; how many an unmap found. */
  readonly size?: bigint;
  readonly unmapped?: bigint;
  /** Host address of a map. */
  readonly vaddr?: bigint;
  /** PROT_ bits of a map. */
  readonly prot?: number;
  /** Of SET_IRQS; `count` is also how often a device was asked for. */
  readonly index?: number;
  readonly flags?: number;
  readonly start?: number;
  readonly count?: number;
}

/** What a vfio-user peer was refused, or did that it should not. */
export interface VfioUserEvent {
  /** `serve`: as a client of ours; `request refused`: as a server. */
  readonly what: string;
  /** Path of the socket, or name of the connection. */
  readonly peer: string;
  /** For a person. */
  readonly text: string;
}

/** A change of the guest's memory map, or of KVM's slots. */
export interface MemoryEvent {
  readonly what: 'added' | 'removed' | 'slot added' | 'slot removed';
  /** Name of the region, or number of the slot. */
  readonly name: string;
  readonly gpa: bigint;
  readonly hva: bigint;
  readonly bytes: bigint;
  /** `0x1000-0x1fff`: the same for a person. */
  readonly range: string;
}

/**
 * A channel of diagnostics_channel, under the name that it has there, with one type of event. Publish behind
 * `if (channel.hasSubscribers)`: a channel that nobody listens to then costs a nanosecond or two, and builds no event.
 */
export class TraceChannel<Event extends object> {
  // Held: diagnostics_channel keeps channels by weak reference.
  readonly #channel: ReturnType<typeof channel>;

  /** @param name `tsvisor:vfio` */
  constructor(name: string) {
    this.#channel = channel(name);
  }

  get name(): string {
    return String(this.#channel.name);
  }

  get hasSubscribers(): boolean {
    return this.#channel.hasSubscribers;
  }

  /** Calls all listeners, first subscribed first, before it returns. What one throws is an uncaught exception, not the publisher's. */
  publish(event: Event): void {
    this.#channel.publish(event);
  }

  subscribe(listener: (event: Event) => void): void {
    // Only publish() puts anything into the channel.
    this.#channel.subscribe(listener as (event: unknown) => void);
  }

  /** @param listener the function that was subscribed */
  unsubscribe(listener: (event: Event) => void): void {
    this.#channel.unsubscribe(listener as (event: unknown) => void);
  }
}

/** Every trace channel of the package. Channels are per thread: subscribe in the thread whose events you want. */
export const trace = {
  exit: new TraceChannel<ExitEvent>('tsvisor:kvm.exit'),
  unclaimed: new TraceChannel<UnclaimedEvent>('tsvisor:bus.unclaimed'),
  guestMisuse: new TraceChannel<GuestMisuseEvent>('tsvisor:guest.misuse'),
  region: new TraceChannel<RegionEvent>('tsvisor:vfio.region'),
  vfio: new TraceChannel<VfioEvent>('tsvisor:vfio'),
  vfioUser: new TraceChannel<VfioUserEvent>('tsvisor:vfio.user'),
  memory: new TraceChannel<MemoryEvent>('tsvisor:memory'),
};

/** Name of a trace channel: a key of {@link trace}. */
export type TraceName = keyof typeof trace;
