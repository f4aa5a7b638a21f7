import type { Interrupts, LevelLine, MsiLine } from '../../devices/contracts.js';
import type { GsiRouting, MsiRoute } from '../../kvm/gsi-routing.js';
import type { Vm } from '../../kvm/vm.js';
import { isErrno } from '../../sys/error.js';
import { isReadable } from '../../sys/eventfd.js';
import { Fd } from '../../sys/fd.js';
import { Scope } from '../../sys/scope.js';
import { trace } from '../../sys/trace.js';

/**
 * An MSI's path into the guest: eventfd, irqfd, GSI, route. Closing deassigns the irqfd only: signals accumulate in the
 * eventfd, and KVM polls it when the irqfd is assigned again, so none is lost.
 */
class KvmMsiLine implements MsiLine {
  readonly #vm: Vm;
  readonly #routing: GsiRouting;
  readonly #fd: Fd;
  #route: MsiRoute | undefined;
  #irqfd: Disposable | undefined;

  constructor(vm: Vm, routing: GsiRouting, fd: Fd) {
    this.#vm = vm;
    this.#routing = routing;
    this.#fd = fd;
  }

  get eventfd(): number {
    return this.#fd.number;
  }

  get isOpen(): boolean {
    return this.#irqfd !== undefined;
  }

  open(address: bigint, data: number): void {
    try {
      if (this.#route === undefined) this.#route = this.#routing.addMsi({ address, data });
      else this.#route.update({ address, data });
    } catch (error) {
      if (!isErrno(error, 'EINVAL')) throw error;
      // The guest programmed an address without a local APIC: hardware drops such a message.
      this.close();
      if (trace.guestMisuse.hasSubscribers) {
        const text = `MSI to no local APIC: address 0x${address.toString(16)}, data 0x${data.toString(16)}`;
        trace.guestMisuse.publish({ device: this.#fd.target, what: 'msi', text });
      }
      return;
    }
    this.#irqfd ??= this.#vm.assignIrqfd({ fd: this.#fd, gsi: this.#route.gsi });
  }

  close(): void {
    this.#irqfd?.[Symbol.dispose]();
    this.#irqfd = undefined;
  }

  isPending(): boolean {
    return !this.isOpen && isReadable(this.#fd.number);
  }

  [Symbol.dispose](): void {
    this.close();
    this.#route?.[Symbol.dispose]();
    this.#route = undefined;
    this.#fd[Symbol.dispose]();
  }
}

/** Interrupts as KVM irqfds: KVM injects them when a device signals its eventfd, without an exit. Machine thread only. */
export class KvmInterrupts implements Interrupts {
  readonly #vm: Vm;
  readonly #routing: GsiRouting;

  constructor(vm: Vm, routing: GsiRouting) {
    this.#vm = vm;
    this.#routing = routing;
  }

  msi(name: string): MsiLine {
    return new KvmMsiLine(this.#vm, this.#routing, Fd.eventfd(name));
  }

  level(gsi: number, name: string): LevelLine {
    using scope = new Scope();
    const fd = scope.own(Fd.eventfd(name));
    const resampleFd = scope.own(Fd.eventfd(`${name}, resample`));
    scope.own(this.#vm.assignIrqfd({ fd, gsi, resampleFd }));
    const owned = scope.move();
    return {
      eventfd: fd.number,
      resamplefd: resampleFd.number,
      gsi,
      [Symbol.dispose]: () => owned[Symbol.dispose](),
    };
  }
}
