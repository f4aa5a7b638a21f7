import type { IoExit, VcpuExit } from '../kvm/exits.js';
import { trace } from '../sys/trace.js';
import { MmioBus, PioBus, type RangeBus } from './bus.js';
import { inject, injectable } from './injection.js';

/** How often each kind of exit has come. */
export type ExitCounts = Readonly<Record<string, number>>;

/** Takes each exit to the device it is for. Machine thread only. */
@injectable()
export class ExitDispatcher {
  readonly #pio: RangeBus;
  readonly #mmio: RangeBus;
  readonly #counts = new Map<VcpuExit['kind'], number>();
  #lastKind: VcpuExit['kind'] | undefined;
  #run = 0;

  constructor(@inject(PioBus) pio: RangeBus, @inject(MmioBus) mmio: RangeBus) {
    this.#pio = pio;
    this.#mmio = mmio;
  }

  /** Handles an exit; false if it is one that nothing here can answer, and the vCPU cannot go on. */
  dispatch(vcpu: number, exit: VcpuExit): boolean {
    this.#count(exit.kind);
    if (trace.exit.hasSubscribers) trace.exit.publish({ vcpu, exit });
    switch (exit.kind) {
      case 'io':
        this.#io(exit);
        return true;
      case 'mmio':
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

  /** Counts up to now, by kind; `interrupted` are the host's own doing. */
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

  /** Exits of one kind come in long runs; the map is touched when the kind changes. */
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
