import type { Bus, Doorbells } from '../../devices/contracts.js';
import type { Vm } from '../../kvm/vm.js';
import { duplicateFd } from '../../sys/fd.js';
import { Scope } from '../../sys/scope.js';

type Width = 0 | 1 | 2 | 4 | 8;

/** Doorbells as KVM ioeventfds. Machine thread only. */
export class KvmDoorbells implements Doorbells {
  readonly #vm: Vm;

  constructor(vm: Vm) {
    this.#vm = vm;
  }

  /**
   * Registers an ioeventfd with a duplicate of `fd`.
   * @throws SysError EEXIST if an ioeventfd at this address matches the same writes; ENOSPC if KVM's I/O bus is full
   */
  add(kind: Bus['kind'], address: bigint, bytes: number, fd: number, datamatch?: bigint): Disposable {
    using scope = new Scope();
    const own = scope.own(duplicateFd(fd, `doorbell at ${kind} 0x${address.toString(16)}`));
    const length = bytes as Width;
    scope.own(this.#vm.assignIoeventfd({ fd: own, address, length, datamatch, isPio: kind === 'pio' }));
    return scope.move();
  }
}
