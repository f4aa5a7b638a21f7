import type { IoExit, VcpuExit } from '../../kvm/exits.js';
import { trace } from '../../sys/trace.js';

/** Number of exits by kind. */
export type ExitCounts = Readonly<Record<string, number>>;

/** A bus as a vCPU accesses it; {@link RangeBus} implements it. No access by the guest makes it throw. */
export interface ExitBus {
  /** Fills `data`; with ones if no device claims the access. */
  read(address: number, data: Uint8Array): void;
  /** Writes `data`; drops it if no device claims the access. */
  write(address: number, data: Uint8Array): void;
}

/** Guest RAM that some accesses exit from; {@link PageTrack} implements it. */
export interface ExitRam {
  /** Does the access, if it is one to RAM; false if it is not. No access by the guest makes it throw. */
  access(address: number, data: Uint8Array, isWrite: boolean): boolean;
}

/** Forwards port and MMIO exits to the buses, and those of RAM to it. Used by the thread that handles exits. */
export class ExitDispatcher {
  readonly #pio: ExitBus;
  readonly #mmio: ExitBus;
  readonly #ram: ExitRam | undefined;
  readonly #counts = new Map<VcpuExit['kind'], number>();
  #lastKind: VcpuExit['kind'] | undefined;
  #run = 0;

  /** @param ram asked about each MMIO access first; without it, no page of RAM can be tracked */
  constructor(pio: ExitBus, mmio: ExitBus, ram?: ExitRam) {
    this.#pio = pio;
    this.#mmio = mmio;
    this.#ram = ram;
  }

  /**
   * Handles an exit. Returns false for one that the hypervisor has to handle: a shutdown, an internal error, a hypercall.
   * @param vcpu number of the vCPU, for trace events
   */
  dispatch(vcpu: number, exit: VcpuExit): boolean {
    this.#count(exit.kind);
    if (trace.exit.hasSubscribers) trace.exit.publish({ vcpu, exit });
    switch (exit.kind) {
      case 'io':
        this.#io(exit);
        return true;
      case 'mmio':
        if (this.#ram?.access(exit.address, exit.data, exit.isWrite)) return true;
        if (exit.isWrite) this.#mmio.write(exit.address, exit.data);
        else this.#mmio.read(exit.address, exit.data);
        return true;
      case 'interrupted':
      case 'again':
      case 'irq-window':
      case 'hlt':
        return true;
      default:
        return false;
    }
  }

  /** Exits so far, by kind; `interrupted` counts kicks by the host. */
  counts(): ExitCounts {
    this.#flush();
    return Object.fromEntries(this.#counts);
  }

  #io(exit: IoExit): void {
    if (exit.count === 1) {
      this.#ioElement(exit, exit.data);
      return;
    }
    for (let i = 0; i < exit.count; i++)
      this.#ioElement(exit, exit.data.subarray(i * exit.size, (i + 1) * exit.size));
  }

  #ioElement(exit: IoExit, data: Uint8Array): void {
    if (exit.isWrite) this.#pio.write(exit.port, data);
    else this.#pio.read(exit.port, data);
  }

  /** Exits of one kind come in long runs: the map is updated only when the kind changes. */
  #count(kind: VcpuExit['kind']): void {
    if (kind === this.#lastKind) {
      this.#run++;
      return;
    }
    this.#flush();
    this.#lastKind = kind;
    this.#run = 1;
  }

  #flush(): void {
    if (this.#lastKind !== undefined)
      this.#counts.set(this.#lastKind, (this.#counts.get(this.#lastKind) ?? 0) + this.#run);
    this.#run = 0;
  }
}
