/**
 * For tests: a plug-in that replaces one port of the machine, the one that TSVISOR_SWAPPED_PORT names, by another
 * implementation that leaves a trace of its own.
 */
import type { DependencyContainer } from 'tsyringe';
import {
  Clock,
  Doorbells,
  GuestMapper,
  Interrupts,
  type LevelLine,
  type MsiLine,
  Signals,
} from '../../devices/contracts.js';
import { createVirtioNetDriver } from '../../devices/virtio-net/index.js';
import type { Vm } from '../../kvm/vm.js';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { EventThread } from '../../sys/event-task.js';
import { drainEventfd, isReadable } from '../../sys/eventfd.js';
import { Fd } from '../../sys/fd.js';
import { disposable, type Scope } from '../../sys/scope.js';
import { attachStep, GuestMemory, KvmAssociation, type MemoryListener } from '../../vfio/assign/index.js';
import { VfioCore } from '../../vfio/core/core.js';
import type { OpenDevice, VendorDriver } from '../../vfio/driver.js';
import { VfioProvider } from '../../vfio/provider.js';
import type { VfioFile } from '../../vfio/uapi.js';
import { MemoryMap, MemorySlotPort } from '../assign/memory-map.js';
import { registerDefault } from '../assign/register.js';
import { VmToken } from '../assign/tokens.js';
import type { Plugin } from '../plugin.js';

/** Messages without irqfd: the event thread waits for the eventfd, and KVM_SIGNAL_MSI delivers. */
class SignalledMsi implements MsiLine {
  readonly #vm: Vm;
  readonly #fd: Fd;
  readonly #watch: Disposable;
  #message: { readonly address: bigint; readonly data: number } | undefined;

  constructor(vm: Vm, signals: Signals, name: string) {
    this.#vm = vm;
    this.#fd = Fd.eventfd(name);
    this.#watch = signals.watch(this.#fd.number, () => this.#deliver());
  }
  get eventfd(): number {
    return this.#fd.number;
  }
  get isOpen(): boolean {
    return this.#message !== undefined;
  }
  open(address: bigint, data: number): void {
    this.#message = { address, data };
    this.#deliver();
  }
  close(): void {
    this.#message = undefined;
  }
  isPending(): boolean {
    return !this.isOpen && isReadable(this.#fd.number);
  }
  #deliver(): void {
    if (this.#message !== undefined && drainEventfd(this.#fd.number) > 0n) this.#vm.signalMsi(this.#message);
  }
  [Symbol.dispose](): void {
    this.#watch[Symbol.dispose]();
    this.#fd[Symbol.dispose]();
  }
}

/** virtio-net with a counter that says whether the driver found its VM when it was opened. */
function nicThatCountsVms(): VendorDriver {
  const driver = createVirtioNetDriver();
  return {
    ...driver,
    types: driver.types.map((type) => ({ ...type, name: 'other-nic' })),
    create(type, ...rest) {
      const made = driver.create({ ...type, name: 'virtio-net' }, ...rest);
      const { ops } = made;
      const open = ops.openDevice.bind(ops);
      let vms = 0;
      ops.openDevice = (device: OpenDevice) => {
        if (device.kvm !== undefined) vms++;
        open(device);
      };
      return {
        ops,
        counters: () => ({ ...made.counters?.(), openedInVm: vms }),
        [Symbol.dispose]: () => made[Symbol.dispose](),
      };
    },
  };
}

const swaps: Readonly<Record<string, (container: DependencyContainer, scope: Scope) => void>> = {
  /** Devices follow a memory of other names. */
  memory: (container) =>
    container.register<GuestMemory>(GuestMemory, {
      useFactory: (from) => ({
        listen: (listener: MemoryListener) =>
          from.resolve(MemoryMap).listen({
            added: (region) => listener.added({ ...region, name: `swapped ${region.name}` }),
            removed: () => {}, // the IOMMU's maps end with their container
          }),
      }),
    }),
  /** No BAR can be mapped, so that all of them are trapped. */
  mapper: (container) =>
    container.register<GuestMapper>(GuestMapper, {
      useValue: {
        map(_gpa, _hva, _bytes, name) {
          throw new SysError({ call: 'swapped map', target: name, errno: errno.ENOSPC });
        },
      },
    }),
  /** KVM's slots, two at most. */
  slots: (container) => {
    let used = 0;
    container.register<MemorySlotPort>(MemorySlotPort, {
      useFactory: (from) => ({
        add(gpa, hva, bytes) {
          attachStep(`swapped slot ${used}`);
          const slot = used++;
          const vm = from.resolve<Vm>(VmToken);
          vm.setUserMemoryRegion({ slot, flags: 0, gpa, hva, bytes });
          return disposable(() => vm.setUserMemoryRegion({ slot, flags: 0, gpa, hva, bytes: 0n }));
        },
      }),
    });
  },
  interrupts: (container) =>
    container.register<Interrupts>(Interrupts, {
      useFactory: (from) => ({
        msi: (name: string): MsiLine =>
          new SignalledMsi(from.resolve<Vm>(VmToken), from.resolve<Signals>(Signals), name),
        level(): LevelLine {
          throw new SysError({ call: 'swapped level', target: 'INTx', errno: errno.ENOTSUP });
        },
      }),
    }),
  /** Each ring of a doorbell is an exit, which the device gets as a register write. */
  doorbells: (container) =>
    container.register<Doorbells>(Doorbells, { useValue: { add: () => disposable(() => {}) } }),
  /** A provider of this process with a core of its own, and its own way for kvm-vfio to reach its files. */
  provider: (container, scope) =>
    registerDefault<VfioProvider>(container, VfioProvider, () => {
      const core = scope.own(new VfioCore());
      const eventThread = container.resolve<EventThread>(EventThread);
      core.registerVendorDriver(nicThatCountsVms(), { eventThread });
      return { ...core.provider, name: 'other', addresses: 'other-nic' };
    }),
  association: (container) => {
    const added = new Set<VfioFile>();
    container.register<KvmAssociation>(KvmAssociation, {
      useValue: {
        addFile(file) {
          added.add(file);
          attachStep(`swapped association has ${added.size}: ${file.target}`);
        },
        removeFile(file) {
          added.delete(file);
          attachStep(`swapped association has ${added.size}`);
        },
      },
    });
  },
  clock: (container) =>
    container.register<Clock>(Clock, {
      useValue: { nowNs: () => process.hrtime.bigint(), nowMs: () => Date.UTC(1977, 4, 25) },
    }),
};

export const plugin: Plugin = {
  name: 'swapped-port',
  configure(container, scope) {
    const port = process.env.TSVISOR_SWAPPED_PORT ?? '';
    const swap = swaps[port];
    if (swap === undefined) throw new Error(`there is no port '${port}' to swap`);
    swap(container, scope);
  },
};
