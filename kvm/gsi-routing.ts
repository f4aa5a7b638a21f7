import {
  IrqRoutingEntry,
  KVM_IOAPIC_NUM_PINS,
  KVM_IRQ_ROUTING_IRQCHIP,
  KVM_IRQ_ROUTING_MSI,
  KVM_IRQCHIP_IOAPIC,
  KVM_IRQCHIP_PIC_MASTER,
} from './uapi.js';
import type { MsiMessage, Vm } from './vm.js';

/** Where a GSI leads: to a pin of an interrupt controller in the kernel, or to a local APIC by message. */
export type GsiTarget =
  | { readonly kind: 'pin' /** KVM_IRQCHIP_… */; readonly irqchip: number; readonly pin: number }
  | ({ readonly kind: 'msi' } & MsiMessage);

/** Which controllers GSIs 0 to 23 lead to at first. */
export interface GsiRoutingOptions {
  /** The in-kernel IOAPIC. Not in a VM with the split irqchip: there {@link GsiRouting.set} names a message per pin. */
  readonly isIoapicRouted: boolean;
  /** GSIs 0 to 15 raise the in-kernel PICs too. */
  readonly isPicRouted: boolean;
}

/** A GSI of its own for one message. Disposing frees it; deassign its irqfd first. */
export interface MsiRoute extends Disposable {
  readonly gsi: number;
  /** Changes the message. An interrupt raised meanwhile goes to the old place or to the new one, never to neither. */
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

/** What GSIs 0 to 23 mean at first: the pin of the same number. */
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
 * The VM's table of GSIs. GSIs 0 to 23 are the IOAPIC's pins; those above are handed out for messages. KVM takes the
 * table as a whole, in one step: every irqfd follows at once, and none ever sees half a change.
 */
export class GsiRouting {
  readonly #vm: Vm;
  #table: Map<number, readonly GsiTarget[]>;
  #isBatched = false;

  private constructor(vm: Vm, table: Map<number, readonly GsiTarget[]>) {
    this.#vm = vm;
    this.#table = table;
  }

  /** @throws SysError EINVAL in a VM without an in-kernel irqchip, or for pins of one it does not have */
  static create(vm: Vm, options: GsiRoutingOptions): GsiRouting {
    const routing = new GsiRouting(vm, defaultTable(options));
    routing.#commit();
    return routing;
  }

  /** How many GSIs lead somewhere. */
  get count(): number {
    let count = 0;
    for (const targets of this.#table.values()) if (targets.length > 0) count++;
    return count;
  }

  /** Says where one of GSIs 0 to 23 leads; nowhere, if there are no targets. @throws RangeError for another GSI */
  set(gsi: number, targets: readonly GsiTarget[]): void {
    if (!(gsi >= 0 && gsi < KVM_IOAPIC_NUM_PINS)) throw new RangeError(`GSI ${gsi} is not an IOAPIC pin`);
    this.batch(() => this.#table.set(gsi, targets));
  }

  /** @throws SysError EINVAL past KVM_CAP_IRQ_ROUTING GSIs, or for an address of no local APIC */
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

  /** Makes all changes within `change` at once, by one call into the kernel; none of them if that or `change` fails. */
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
