import { ioctl } from '../sys/ioctl.js';
import { MemoryView } from '../sys/mapping.js';
import { disposable } from '../sys/scope.js';
import type { VcpuHandle } from './runner.js';
import {
  CoalescedMmio,
  CoalescedMmioRing,
  CoalescedMmioZone,
  KVM_COALESCED_MMIO_PAGE_OFFSET,
  KVM_REGISTER_COALESCED_MMIO,
  KVM_UNREGISTER_COALESCED_MMIO,
} from './uapi.js';
import type { Vm } from './vm.js';

const PAGE = 4096;
/** KVM_COALESCED_MMIO_MAX */
const CAPACITY = Math.floor((PAGE - CoalescedMmioRing.size) / CoalescedMmio.size);

/** A range of addresses or ports whose writes KVM may defer. */
export interface CoalescedZone {
  /** Guest physical address, or port if `isPio`. */
  readonly address: bigint;
  /** Length of the zone in bytes. */
  readonly bytes: number;
  /** Whether the zone is of I/O ports instead of guest physical addresses. */
  readonly isPio?: boolean | undefined;
}

/**
 * Makes KVM queue guest writes to a zone in the {@link CoalescedRing} instead of exiting for each. Drain the ring
 * before handling the next exit. Suitable for registers whose writes have no effect that the guest waits for.
 * @returns unregisters the zone
 * @throws SysError ENOSPC if the VM's I/O bus is full; EINVAL
 * @see KVM_REGISTER_COALESCED_MMIO
 */
export function registerCoalesced(vm: Vm, { address, bytes, isPio }: CoalescedZone): Disposable {
  const zone = CoalescedMmioZone.encode({ addr: address, size: bytes, pio: isPio ? 1 : 0 });
  ioctl(vm.fd, KVM_REGISTER_COALESCED_MMIO, zone);
  return disposable(() => {
    if (vm.fd.isOpen) ioctl(vm.fd, KVM_UNREGISTER_COALESCED_MMIO, zone);
  });
}

/** Receives one deferred write. `data` is reused and valid until the next call. */
export type CoalescedWrite = (address: number, data: Uint8Array, isPio: boolean) => void;

/** The ring of deferred writes. All vCPUs of a VM share one ring, in order; any vCPU's mapping reaches it. */
export class CoalescedRing {
  readonly #indices: Uint32Array;
  readonly #view: DataView;
  readonly #data: readonly (readonly Uint8Array[])[];

  private constructor(indices: Uint32Array, view: DataView, data: readonly (readonly Uint8Array[])[]) {
    this.#indices = indices;
    this.#view = view;
    this.#data = data;
  }

  /**
   * The ring page that KVM shares between the VM's vCPUs.
   * @param vcpu any vCPU of the VM; must outlive the ring
   */
  static of(vcpu: VcpuHandle): CoalescedRing {
    const at = KVM_COALESCED_MMIO_PAGE_OFFSET * PAGE;
    const page = new MemoryView(vcpu.address, vcpu.bytes).slice(at, PAGE);
    const { buffer, byteOffset } = page;
    const data = Array.from({ length: CAPACITY }, (_, i) => {
      const start = entryAt(i) + CoalescedMmio.offsets.data;
      return Array.from({ length: 9 }, (_, n) => page.subarray(start, start + n));
    });
    return new CoalescedRing(
      new Uint32Array(buffer, byteOffset, 2),
      new DataView(buffer, byteOffset, PAGE),
      data,
    );
  }

  /** Removes each deferred write and passes it to `write`. Returns their number. */
  drain(write: CoalescedWrite): number {
    const { phys_addr: addr, len, pio } = CoalescedMmio.offsets;
    let count = 0;
    // KVM advances `last` after it has written an entry; only we advance `first`.
    let first = Atomics.load(this.#indices, 0) % CAPACITY;
    while (first !== Atomics.load(this.#indices, 1) % CAPACITY) {
      const at = entryAt(first);
      const view = this.#view;
      const address = view.getUint32(at + addr, true) + view.getUint32(at + addr + 4, true) * 2 ** 32;
      const data = this.#data[first]?.[view.getUint32(at + len, true)];
      if (data !== undefined) write(address, data, view.getUint32(at + pio, true) !== 0);
      first = (first + 1) % CAPACITY;
      Atomics.store(this.#indices, 0, first);
      count++;
    }
    return count;
  }
}

function entryAt(index: number): number {
  return CoalescedMmioRing.size + index * CoalescedMmio.size;
}
