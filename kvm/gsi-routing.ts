import {
  IrqRoutingEntry,
  KVM_IOAPIC_NUM_PINS,
  KVM_IRQ_ROUTING_IRQCHIP,
  KVM_IRQ_ROUTING_MSI,
  KVM_IRQCHIP_IOAPIC,
  KVM_IRQCHIP_PIC_MASTER,
} from './uapi.js';
import type { MsiMessage, Vm } from './vm.js';

/** Where a GSI is routed: to a pin of an in-kernel interrupt controller, or to a local APIC by MSI. */
export type GsiTarget =
  | {
      readonly kind: 'pin';
      /** KVM_IRQCHIP_… */
      readonly irqchip: number;
      /** Pin of that controller, from 0. */
      readonly pin: number;
    }
  | ({ readonly kind: 'msi' } & MsiMessage);

/** Initial routes of GSIs 0 to 23. */
export interface GsiRoutingOptions {
  /**
   * Route to the in-kernel IOAPIC. False with the split irqchip: use {@link GsiRouting.set} to route a pin to an MSI.
   */
  readonly isIoapicRouted: boolean;
  /** Also route GSIs 0 to 15 to the in-kernel PICs. */
  readonly isPicRouted: boolean;
}

/** A GSI allocated for one MSI. Disposing releases it; deassign its irqfd first. */
export interface MsiRoute extends Disposable {
  /** The GSI, for {@link Vm.assignIrqfd}; reused for another route after dispose. */
  readonly gsi: number;
  /** Changes the message atomically: an interrupt raised meanwhile is delivered with the old message or the new one. */
  update(message: MsiMessage): void;
}

const PINS_OF_A_PIC = 8;
const PIC_GSIS = 16;

function encodeTarget(gsi: number, target: GsiTarget): Uint8Array {
  if (target.kind === 'pin')
    return IrqRoutingEntry.encode({ gsi, type: KVM_IRQ_ROUTING_IRQCHIP, u: [target.irqchip, target.pin] });
  const { address, data } = target;
  const u = [Number(address & 0xffff_ffffn), Number(address >> 32n), data];
  return IrqRoutingEntry.encode({ gsi, type: KVM_IRQ_ROUTING_MSI, u });
}

/** Each GSI goes to the pin of the same number. */
function defaultTable(options: GsiRoutingOptions): Map<number, readonly GsiTarget[]> {
  const table = new Map<number, readonly GsiTarget[]>();
  for (let gsi = 0; gsi < KVM_IOAPIC_NUM_PINS; gsi++) {
    const targets: GsiTarget[] = [];
    if (options.isIoapicRouted) targets.push({ kind: 'pin', irqchip: KVM_IRQCHIP_IOAPIC, pin: gsi });
    if (options.isPicRouted && gsi < PIC_GSIS) {
      const irqchip = KVM_IRQCHIP_PIC_MASTER + Math.floor(gsi / PINS_OF_A_PIC);
      targets.push({ kind: 'pin', irqchip, pin: gsi % PINS_OF_A_PIC });
    }
    table.set(gsi, targets);
  }
  return table;
}

/**
 * The VM's GSI routing table. GSIs 0 to 23 are the IOAPIC's pins; higher ones are allocated for MSIs. KVM replaces the
 * whole table atomically, so an irqfd never uses a half-changed route. Machine thread.
 * @see KVM_SET_GSI_ROUTING
 */
export class GsiRouting {
  readonly #vm: Vm;
  #table: Map<number, readonly GsiTarget[]>;
  #isBatched = false;

  private constructor(vm: Vm, table: Map<number, readonly GsiTarget[]>) {
    this.#vm = vm;
    this.#table = table;
  }

  /** @throws SysError EINVAL in a VM without an in-kernel irqchip, or for pins of a controller that it does not have */
  static create(vm: Vm, options: GsiRoutingOptions): GsiRouting {
    const routing = new GsiRouting(vm, defaultTable(options));
    routing.#commit();
    return routing;
  }

  /** Number of GSIs that have a route. */
  get count(): number {
    let count = 0;
    for (const targets of this.#table.values()) if (targets.length > 0) count++;
    return count;
  }

  /** Routes one of GSIs 0 to 23; without targets it is unrouted. @throws RangeError for another GSI */
  set(gsi: number, targets: readonly GsiTarget[]): void {
    if (!(gsi >= 0 && gsi < KVM_IOAPIC_NUM_PINS)) throw new RangeError(`GSI ${gsi} is not an IOAPIC pin`);
    this.batch(() => this.#table.set(gsi, targets));
  }

  /**
   * Allocates a GSI and routes it to a message.
   * @throws SysError EINVAL past KVM_CAP_IRQ_ROUTING GSIs, or for an address outside the local APICs
   */
  addMsi(message: MsiMessage): MsiRoute {
    let gsi = KVM_IOAPIC_NUM_PINS;
    while (this.#table.has(gsi)) gsi++;
    const put = ({ address, data }: MsiMessage) =>
      this.batch(() => this.#table.set(gsi, [{ kind: 'msi', address, data }]));
    put(message);
    let isLive = true;
    return {
      gsi,
      update: (next) => {
        if (!isLive) throw new RangeError(`GSI ${gsi} was released`);
        put(next);
      },
      [Symbol.dispose]: () => {
        if (!isLive) return;
        isLive = false;
        this.batch(() => this.#table.delete(gsi));
      },
    };
  }

  /** Applies all changes made in `change` with one ioctl; applies none of them if that or `change` fails. */
  batch(change: () => void): void {
    if (this.#isBatched) {
      change();
      return;
    }
    const before = new Map(this.#table);
    this.#isBatched = true;
    try {
      change();
      if (this.#vm.fd.isOpen) this.#commit();
    } catch (error) {
      this.#table = before;
      throw error;
    } finally {
      this.#isBatched = false;
    }
  }

  #commit(): void {
    const entries = [...this.#table].flatMap(([gsi, targets]) =>
      targets.map((target) => encodeTarget(gsi, target)),
    );
    this.#vm.setGsiRouting(entries);
  }
}
