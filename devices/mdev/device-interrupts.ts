import { readFileSync, readlinkSync } from 'node:fs';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { signalEventfd } from '../../sys/eventfd.js';
import { duplicateFd, type Fd } from '../../sys/fd.js';
import {
  type IrqInfo,
  type IrqSet,
  VFIO_IRQ_INFO_AUTOMASKED,
  VFIO_IRQ_INFO_EVENTFD,
  VFIO_IRQ_INFO_MASKABLE,
  VFIO_IRQ_INFO_NORESIZE,
  VFIO_IRQ_SET_ACTION_MASK,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_ACTION_UNMASK,
  VFIO_IRQ_SET_DATA_BOOL,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_IRQ_SET_DATA_NONE,
  VFIO_PCI_INTX_IRQ_INDEX,
  VFIO_PCI_MSI_IRQ_INDEX,
  VFIO_PCI_MSIX_IRQ_INDEX,
  VFIO_PCI_REQ_IRQ_INDEX,
} from '../../vfio/uapi.js';

/** Eventfds of the interrupts, by number, -1 for none. They stay open until `retarget` with other ones has returned. */
export interface InterruptTargets {
  /** One eventfd per vector that has been given one, or let go, so far; undefined while MSI-X is disabled. */
  readonly msix: readonly number[] | undefined;
  /** One eventfd per message that is enabled; undefined while MSI is disabled. */
  readonly msi: readonly number[] | undefined;
  /** The pin's eventfd; undefined while INTx is disabled. */
  readonly intx: number | undefined;
  /** The user signals this eventfd to unmask INTx. */
  readonly unmask: number;
}

/** The part that raises interrupts, usually in the event thread. Both calls take effect before they return. */
export interface InterruptControl {
  /** Replaces all targets; once it returns, no old eventfd is signalled. */
  retarget(targets: InterruptTargets): void;
  /** Masks or unmasks INTx; unmasking a pin that is still asserted raises the interrupt again. */
  maskIntx(isMasked: boolean): void;
  /** Whether PCI_COMMAND_INTX_DISABLE is set, which holds back even an interrupt that the user triggers; false if absent. */
  isIntxDisabled?(): boolean;
}

/** A descriptor of our own for an eventfd that unmasks INTx, and the one of the user that it was made from. */
interface UnmaskEventfd {
  readonly fd: Fd;
  readonly userFd: number;
  readonly id: string | undefined;
}

/** How many messages a function can send. */
export interface MessageCounts {
  /** Vectors of its MSI-X table, up to 2048; 0 or absent if it has none. */
  readonly msix?: number;
  /** Messages of its MSI capability, up to 32; 0 or absent if it has none. */
  readonly msi?: number;
}

/**
 * VFIO_DEVICE_GET_IRQ_INFO of a function with INTx, REQ, and the messages it has. MSI-X has no NORESIZE: vectors are
 * added while it is enabled, as in Linux since 6.5.
 */
export function irqInfo(index: number, { msix = 0, msi = 0 }: MessageCounts): IrqInfo {
  switch (index) {
    case VFIO_PCI_INTX_IRQ_INDEX: {
      const flags = VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED;
      return { index, flags, count: 1 };
    }
    case VFIO_PCI_MSI_IRQ_INDEX: {
      const flags = msi === 0 ? 0 : VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_NORESIZE;
      return { index, flags, count: msi };
    }
    case VFIO_PCI_MSIX_IRQ_INDEX:
      return { index, flags: msix === 0 ? 0 : VFIO_IRQ_INFO_EVENTFD, count: msix };
    case VFIO_PCI_REQ_IRQ_INDEX:
      return { index, flags: VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_NORESIZE, count: 1 };
    default:
      return { index, flags: 0, count: 0 };
  }
}

/** The two kinds of messages. */
type MessageKind = 'msi' | 'msix';
const kindNames = { msi: 'MSI', msix: 'MSI-X' } as const;

/**
 * VFIO_DEVICE_SET_IRQS with vfio-pci's rules: INTx, MSI and MSI-X exclude each other, and MSI-X takes more vectors
 * while it is enabled. @see drivers/vfio/pci/vfio_pci_intrs.c. Machine thread only.
 */
export class DeviceInterrupts implements Disposable {
  readonly #name: string;
  readonly #counts: Readonly<Record<MessageKind, number>>;
  readonly #control: InterruptControl;
  #kind: 'intx' | MessageKind | undefined;
  #intx: Fd | undefined;
  #unmask: UnmaskEventfd | undefined;
  /** Of the kind that is enabled. */
  #messages: (Fd | undefined)[] = [];
  #request: Fd | undefined;

  constructor(name: string, { msix = 0, msi = 0 }: MessageCounts, control: InterruptControl) {
    this.#name = name;
    this.#counts = { msix, msi };
    this.#control = control;
  }

  /** Whether the user has enabled MSI-X; INTx is off then. */
  get isMsixEnabled(): boolean {
    return this.#kind === 'msix';
  }

  /** Number of messages that the user has enabled by MSI; 0 while it is disabled. */
  get enabledMsi(): number {
    return this.#kind === 'msi' ? this.#messages.length : 0;
  }

  /**
   * VFIO_DEVICE_SET_IRQS.
   * @throws SysError EINVAL for a set that violates the rules; ENOTTY for an action that the index does not support;
   *   EBUSY for a second unmask eventfd; ERANGE to enable MSI-X with no vector; EBADF for a closed descriptor
   */
  set(set: IrqSet): void {
    switch (set.index) {
      case VFIO_PCI_INTX_IRQ_INDEX:
        this.#setIntx(set);
        break;
      case VFIO_PCI_MSI_IRQ_INDEX:
        this.#setMessages('msi', set);
        break;
      case VFIO_PCI_MSIX_IRQ_INDEX:
        this.#setMessages('msix', set);
        break;
      case VFIO_PCI_REQ_IRQ_INDEX:
        this.#setRequest(set);
        break;
      default:
        this.#refuse(errno.ENOTTY, `irq index ${set.index} has no interrupts`);
    }
  }

  /** Signals the REQ interrupt: asks the user to release the device. */
  request(): void {
    if (this.#request !== undefined) signalEventfd(this.#request.number);
  }

  #setIntx(set: IrqSet): void {
    if ((set.flags & VFIO_IRQ_SET_ACTION_TRIGGER) !== 0) {
      this.#triggerIntx(set);
      return;
    }
    if (this.#kind !== 'intx' || set.start !== 0 || set.count !== 1) {
      this.#refuse(errno.EINVAL, 'INTx is not enabled, or the range is not its one pin');
    }
    const isMask = (set.flags & VFIO_IRQ_SET_ACTION_MASK) !== 0;
    if ((set.flags & VFIO_IRQ_SET_DATA_EVENTFD) !== 0) {
      if (isMask) this.#refuse(errno.ENOTTY, 'INTx cannot be masked by an eventfd');
      this.#setUnmask(set.data?.[0] ?? -1);
    } else if ((set.flags & VFIO_IRQ_SET_DATA_NONE) !== 0 || (set.data?.[0] ?? 0) !== 0) {
      if (isMask || (set.flags & VFIO_IRQ_SET_ACTION_UNMASK) !== 0) this.#control.maskIntx(isMask);
    }
  }

  /** @see vfio_virqfd_enable and vfio_virqfd_disable */
  #setUnmask(number: number): void {
    const fd = this.#keep(number, 'INTx unmask eventfd');
    const old = this.#unmask;
    // In Linux the association ends when the eventfd's last descriptor is closed, which users rely on to replace it. Our
    // own descriptor keeps the eventfd alive, so what counts is the user's, as far as this process can see it.
    if (fd !== undefined && old !== undefined && old.id !== undefined && eventfdId(old.userFd) === old.id) {
      fd[Symbol.dispose]();
      this.#refuse(errno.EBUSY, 'an eventfd unmasks INTx already: set -1 first');
    }
    this.#unmask = fd && { fd, userFd: number, id: eventfdId(number) };
    this.#retarget(old?.fd);
  }

  #triggerIntx(set: IrqSet): void {
    if (this.#kind === 'intx' && set.count === 0 && (set.flags & VFIO_IRQ_SET_DATA_NONE) !== 0) {
      this.#disable();
      return;
    }
    const hasMessages = this.#kind === 'msi' || this.#kind === 'msix';
    if (hasMessages || set.start !== 0 || set.count !== 1) {
      this.#refuse(errno.EINVAL, 'messages are enabled, or the range is not the one pin of INTx');
    }
    if ((set.flags & VFIO_IRQ_SET_DATA_EVENTFD) !== 0) {
      const old = this.#intx;
      this.#intx = this.#keep(set.data?.[0] ?? -1, 'INTx eventfd');
      this.#kind = 'intx';
      this.#retarget(old);
    } else {
      if (this.#kind !== 'intx') this.#refuse(errno.EINVAL, 'INTx is not enabled');
      if (this.#control.isIntxDisabled?.() !== true) this.#loopBack(set, [this.#intx]);
    }
  }

  /** @see vfio_pci_set_msi_trigger */
  #setMessages(kind: MessageKind, set: IrqSet): void {
    const name = kindNames[kind];
    if ((set.flags & VFIO_IRQ_SET_ACTION_TRIGGER) === 0)
      this.#refuse(errno.ENOTTY, `${name} cannot be masked here`);
    const isEnabled = this.#kind === kind;
    if (isEnabled && set.count === 0 && (set.flags & VFIO_IRQ_SET_DATA_NONE) !== 0) {
      this.#disable();
      return;
    }
    if (!isEnabled && this.#kind !== undefined) {
      const other = this.#kind === 'intx' ? 'INTx' : kindNames[this.#kind];
      this.#refuse(errno.EINVAL, `${other} is enabled: disable it first`);
    }
    const end = set.start + set.count;
    if (end > this.#counts[kind])
      this.#refuse(errno.EINVAL, `${name} has ${this.#counts[kind]} vectors, not ${end}`);
    if ((set.flags & VFIO_IRQ_SET_DATA_EVENTFD) === 0) {
      if (!isEnabled) this.#refuse(errno.EINVAL, `${name} is not enabled`);
      this.#loopBack(set, this.#messages);
      return;
    }
    if (isEnabled && set.count === 0) return;
    if (end === 0) this.#refuse(errno.ERANGE, `${name} is enabled with one vector at least`);
    // The number of messages stands in the device's MSI capability while that is enabled.
    if (isEnabled && kind === 'msi' && end > this.#messages.length)
      this.#refuse(errno.EINVAL, `MSI is enabled with ${this.#messages.length} messages: disable it first`);
    // A splice past the end would put the vector at the end, whatever its number.
    const length = Math.max(end, this.#messages.length);
    this.#setVectors(
      kind,
      set,
      Array.from({ length }, (_, vector) => this.#messages[vector]),
    );
  }

  /**
   * Gives vectors their eventfds. One that is refused takes those before it in the call along, and its own vector's; if
   * the call was to enable messages, they stay off. @see vfio_msi_set_block
   */
  #setVectors(kind: MessageKind, set: IrqSet, vectors: (Fd | undefined)[]): void {
    const kept: (Fd | undefined)[] = [];
    try {
      for (let i = 0; i < set.count; i++)
        kept.push(this.#keep(set.data?.[i] ?? -1, `${kindNames[kind]} eventfd ${set.start + i}`));
    } catch (error) {
      for (const fd of kept) fd?.[Symbol.dispose]();
      if (this.#kind === kind) this.#replaceVectors(set.start, vectors, [...kept, undefined].fill(undefined));
      throw error;
    }
    this.#kind = kind;
    this.#replaceVectors(set.start, vectors, kept);
  }

  #replaceVectors(start: number, vectors: (Fd | undefined)[], by: readonly (Fd | undefined)[]): void {
    const old = vectors.splice(start, by.length, ...by);
    this.#messages = vectors;
    this.#retarget(...old);
  }

  /** @see vfio_pci_set_ctx_trigger_single */
  #setRequest(set: IrqSet): void {
    if ((set.flags & VFIO_IRQ_SET_ACTION_TRIGGER) === 0) this.#refuse(errno.ENOTTY, 'REQ has only a trigger');
    if (set.start !== 0 || set.count > 1) this.#refuse(errno.EINVAL, 'REQ is one interrupt');
    const old = this.#request;
    if ((set.flags & VFIO_IRQ_SET_DATA_NONE) !== 0) {
      if (old === undefined) this.#refuse(errno.EINVAL, 'REQ has no eventfd');
      if (set.count === 1) signalEventfd(old.number);
      else {
        this.#request = undefined;
        old[Symbol.dispose]();
      }
      return;
    }
    if (set.count === 0) this.#refuse(errno.EINVAL, 'no data: DATA_NONE with count 0 takes the eventfd away');
    if ((set.flags & VFIO_IRQ_SET_DATA_BOOL) !== 0) {
      this.#loopBack(set, [old]);
      return;
    }
    this.#request = this.#keep(set.data?.[0] ?? -1, 'REQ eventfd');
    old?.[Symbol.dispose]();
  }

  /** Duplicates the user's eventfd; undefined for -1. @throws SysError EBADF; EINVAL for another kind of file */
  #keep(number: number, target: string): Fd | undefined {
    if (number < 0) return undefined;
    const fd = duplicateFd(number, target);
    if (readlinkSync(`/proc/self/fd/${fd.number}`) === 'anon_inode:[eventfd]') return fd;
    fd[Symbol.dispose]();
    return this.#refuse(errno.EINVAL, `${target}: fd ${number} is no eventfd`);
  }

  #refuse(code: number, hint: string): never {
    throw new SysError({ call: 'VFIO_DEVICE_SET_IRQS', target: this.#name, errno: code, hint });
  }

  /** DATA_NONE or DATA_BOOL: raises the interrupts as the device would. */
  #loopBack(set: IrqSet, lines: readonly (Fd | undefined)[]): void {
    const isBool = (set.flags & VFIO_IRQ_SET_DATA_BOOL) !== 0;
    for (let i = 0; i < set.count; i++) {
      const fd = lines[set.start + i];
      if (fd !== undefined && (!isBool || (set.data?.[i] ?? 0) !== 0)) signalEventfd(fd.number);
    }
  }

  #disable(): void {
    const old = [this.#intx, this.#unmask?.fd, ...this.#messages];
    this.#kind = undefined;
    this.#intx = undefined;
    this.#unmask = undefined;
    this.#messages = [];
    this.#retarget(...old);
  }

  /** Passes the new targets to the event thread, and then closes the old ones. */
  #retarget(...old: readonly (Fd | undefined)[]): void {
    const messages = this.#messages.map((fd) => fd?.number ?? -1);
    this.#control.retarget({
      msix: this.#kind === 'msix' ? messages : undefined,
      msi: this.#kind === 'msi' ? messages : undefined,
      intx: this.#kind === 'intx' ? (this.#intx?.number ?? -1) : undefined,
      unmask: this.#unmask?.fd.number ?? -1,
    });
    for (const fd of old) fd?.[Symbol.dispose]();
  }

  /** Detaches and closes all eventfds. */
  [Symbol.dispose](): void {
    this.#disable();
    this.#request?.[Symbol.dispose]();
    this.#request = undefined;
  }
}

/** The kernel's name of the eventfd behind a descriptor; undefined for none, and in a kernel that does not show it. */
function eventfdId(fd: number): string | undefined {
  try {
    return /^eventfd-id:\s*(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1'))?.[1];
  } catch {
    return undefined;
  }
}
