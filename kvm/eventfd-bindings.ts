/** Eventfds that a VM is bound to in the kernel: irqfds, which raise its interrupts, and ioeventfds, which its writes signal. */
import type { Fd } from '../sys/fd.js';
import { ioctl } from '../sys/ioctl.js';
import { disposable } from '../sys/scope.js';
import * as uapi from './uapi.js';

/** Arguments of {@link Vm.assignIrqfd}. */
export interface IrqfdOptions {
  /** The eventfd; stays open until the irqfd is deassigned. */
  readonly fd: Fd;
  /** GSI to raise, as {@link GsiRouting} numbers them. */
  readonly gsi: number;
  /**
   * Makes the interrupt level-triggered: it stays asserted until the guest's EOI, which deasserts it and signals this
   * eventfd.
   */
  readonly resampleFd?: Fd | undefined;
}

/** Arguments of {@link Vm.assignIoeventfd}. */
export interface IoeventfdOptions {
  /** The eventfd; stays open until the ioeventfd is deassigned. */
  readonly fd: Fd;
  /** Guest physical address, or port if `isPio`. */
  readonly address: bigint;
  /** Width of the guest's write in bytes; 0 matches any width. */
  readonly length: 0 | 1 | 2 | 4 | 8;
  /** Match only this value; writes of other values still exit. Requires a length. */
  readonly datamatch?: bigint | undefined;
  /** Whether `address` is an I/O port instead of a guest physical address. */
  readonly isPio?: boolean | undefined;
}

/** @throws as {@link Vm.assignIrqfd} */
export function bindIrqfd(vm: Fd, { fd, gsi, resampleFd }: IrqfdOptions): Disposable {
  const resample =
    resampleFd === undefined ? {} : { flags: uapi.KVM_IRQFD_FLAG_RESAMPLE, resamplefd: resampleFd.number };
  const irqfd = { fd: fd.number, gsi };
  const target = `${fd.target}, gsi ${gsi}`;
  ioctl(vm, uapi.KVM_IRQFD, uapi.Irqfd.encode({ ...irqfd, ...resample }), target);
  return undone(vm, () => {
    const flags = uapi.KVM_IRQFD_FLAG_DEASSIGN;
    ioctl(vm, uapi.KVM_IRQFD, uapi.Irqfd.encode({ ...irqfd, flags }), target);
  });
}

/** @throws as {@link Vm.assignIoeventfd} */
export function bindIoeventfd(
  vm: Fd,
  { fd, address, length, datamatch, isPio }: IoeventfdOptions,
): Disposable {
  const flags =
    (datamatch === undefined ? 0 : uapi.KVM_IOEVENTFD_FLAG_DATAMATCH) |
    (isPio ? uapi.KVM_IOEVENTFD_FLAG_PIO : 0);
  const ioeventfd = { datamatch: datamatch ?? 0n, addr: address, len: length, fd: fd.number };
  const target = `${fd.target}, ${isPio ? 'port' : 'address'} 0x${address.toString(16)}`;
  ioctl(vm, uapi.KVM_IOEVENTFD, uapi.Ioeventfd.encode({ ...ioeventfd, flags }), target);
  return undone(vm, () => {
    const undo = flags | uapi.KVM_IOEVENTFD_FLAG_DEASSIGN;
    ioctl(vm, uapi.KVM_IOEVENTFD, uapi.Ioeventfd.encode({ ...ioeventfd, flags: undo }), target);
  });
}

/** A registration that ends with dispose, or with the VM's descriptor. */
function undone(vm: Fd, undo: () => void): Disposable {
  return disposable(() => {
    if (vm.isOpen) undo();
  });
}
