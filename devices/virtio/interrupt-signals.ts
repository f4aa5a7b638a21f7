import type { EventContext } from '../../sys/event-task.js';
import { drainEventfd, signalEventfd } from '../../sys/eventfd.js';
import type { InterruptTargets } from '../mdev/device-interrupts.js';
import { PCI_COMMAND_INTX_DISABLE } from '../pci/pci-regs.js';
import { VIRTIO_PCI_ISR_CONFIG, VIRTIO_PCI_ISR_QUEUE } from './spec.js';
import type { TransportState } from './transport-state.js';

const NO_TARGETS: InterruptTargets = { msix: undefined, msi: undefined, intx: undefined, unmask: -1 };

/**
 * Raises the device's interrupts: MSI-X messages, or the INTx pin, which each interrupt masks until the user unmasks
 * it, as in vfio-pci. Event thread only. Of a device with several, each thread has one; the pin, whose mask is one state, is
 * the first one's, which the others tell by an eventfd.
 */
export class InterruptSignals implements Disposable {
  readonly #state: TransportState;
  readonly #context: EventContext;
  readonly #pin: number | undefined;
  #targets = NO_TARGETS;
  #isIntxMasked = false;
  #isIntxDisabled = false;
  #unmaskWatch: Disposable | undefined;
  /** Whether the device is stopped: what wants to interrupt waits. */
  #isHeld = false;
  /** Vectors that wanted to interrupt without an eventfd, while MSI-X was enabled. */
  readonly #pending = new Set<number>();

  /** @param pin an eventfd by which to tell the owner of the pin, if that is in another thread */
  constructor(state: TransportState, context: EventContext, pin?: number) {
    this.#state = state;
    this.#context = context;
    this.#pin = pin;
  }

  /** Watches for what the other threads tell by the eventfd. */
  hearPin(pin: number): void {
    this.#context.watch(pin, () => this.raiseIntx(), true);
  }

  /** Replaces the eventfds; the old ones are no longer used. @throws SysError if `unmask` cannot be watched */
  retarget(targets: InterruptTargets): void {
    if (this.#pin !== undefined) targets = { ...targets, intx: undefined, unmask: -1 };
    const hadIntx = this.#targets.intx !== undefined;
    if (targets.unmask !== this.#targets.unmask) {
      this.#unmaskWatch?.[Symbol.dispose]();
      this.#unmaskWatch = undefined;
      this.#targets = { ...this.#targets, unmask: -1 };
      if (targets.unmask >= 0) this.#unmaskWatch = this.#watchUnmask(targets.unmask);
    }
    this.#targets = targets;
    this.#sendPending();
    // An open resets the command register without a notice.
    this.#followCommand();
    if (targets.intx !== undefined && !hadIntx) this.#isIntxMasked = this.#isIntxDisabled;
    this.raiseIntx();
  }

  /** Used buffer notification. 4.1.5.1.3 */
  queue(index: number): void {
    if (this.#targets.msix !== undefined) {
      this.#sendMsix(this.#targets.msix, this.#state.queueVector(index));
      return;
    }
    this.#state.raiseIsr(VIRTIO_PCI_ISR_QUEUE);
    this.raiseIntx();
  }

  /**
   * The eventfd of a queue's MSI-X vector, which the one who serves the queue may signal in place of {@link queue}; -1 if
   * there is none. Not counted then. Valid until {@link retarget}, and until the driver gives the queue another vector.
   */
  direct(index: number): number {
    return this.#targets.msix?.[this.#state.queueVector(index)] ?? -1;
  }

  /** Configuration change notification. 4.1.5.1.4 */
  config(): void {
    this.#state.raiseIsr(VIRTIO_PCI_ISR_CONFIG);
    if (this.#targets.msix === undefined) this.raiseIntx();
    else this.#sendMsix(this.#targets.msix, this.#state.configVector);
  }

  /** The user's mask; while the command register disables INTx, it cannot be taken away. */
  maskIntx(isMasked: boolean): void {
    if (!isMasked && this.#isIntxDisabled) return;
    this.#isIntxMasked = isMasked;
    this.raiseIntx();
  }

  /** The command register has changed: INTx disable masks or unmasks, whatever the user's mask was. @see vfio_pci_intx_mask */
  obeyCommand(): void {
    this.#followCommand();
    this.raiseIntx();
  }

  #followCommand(): void {
    const isDisabled = (this.#state.command & PCI_COMMAND_INTX_DISABLE) !== 0;
    if (isDisabled !== this.#isIntxDisabled) this.#isIntxMasked = isDisabled;
    this.#isIntxDisabled = isDisabled;
  }

  /** From now on nothing interrupts. Takes the vectors that are pending, for {@link resume}. */
  pause(): readonly number[] {
    this.#isHeld = true;
    const pending = [...this.#pending];
    this.#pending.clear();
    return pending;
  }

  /** Interrupts again, and for what has been held back. @param pending vectors that are pending, too */
  resume(pending: readonly number[]): void {
    for (const vector of pending) this.#pending.add(vector);
    this.#isHeld = false;
    this.#sendPending();
    this.raiseIntx();
  }

  /** Raises INTx if the pin is asserted and neither masked nor disabled, or has its owner do so. */
  raiseIntx(): void {
    if (this.#isHeld) return;
    const { msix, intx } = this.#targets;
    if (this.#pin !== undefined) {
      if (msix === undefined && this.#state.isr !== 0) signalEventfd(this.#pin);
      return;
    }
    if (msix !== undefined || intx === undefined || intx < 0 || this.#isIntxMasked) return;
    if (this.#state.isr === 0 || (this.#state.command & PCI_COMMAND_INTX_DISABLE) !== 0) return;
    this.#isIntxMasked = true;
    this.#signal(intx);
  }

  /** A reset of the device: no vector is pending any more. */
  reset(): void {
    this.#pending.clear();
  }

  #sendMsix(vectors: readonly number[], vector: number): void {
    const fd = this.#isHeld ? -1 : (vectors[vector] ?? -1);
    if (fd >= 0) this.#signalVector(fd, vector);
    // VIRTIO_MSI_NO_VECTOR is out of range.
    else if (vector < this.#state.vectorCount) this.#pending.add(vector);
  }

  /**
   * A vector without an eventfd is a masked one to the function, as vfio-pci masks those without an interrupt of the
   * host: it stays pending until it has one. @see PCI Local Bus 3.0, section 6.8.2
   */
  #sendPending(): void {
    const { msix } = this.#targets;
    if (msix === undefined) this.#pending.clear();
    if (this.#isHeld) return;
    for (const vector of this.#pending) {
      const fd = msix?.[vector] ?? -1;
      if (fd < 0) continue;
      this.#pending.delete(vector);
      this.#signalVector(fd, vector);
    }
  }

  #signalVector(fd: number, vector: number): void {
    this.#state.countVector(vector);
    this.#signal(fd);
  }

  #signal(fd: number): void {
    this.#state.count('interrupts');
    signalEventfd(fd);
  }

  #watchUnmask(fd: number): Disposable {
    return this.#context.watch(
      fd,
      () => {
        drainEventfd(fd);
        this.maskIntx(false);
      },
      true,
    );
  }

  [Symbol.dispose](): void {
    this.#unmaskWatch?.[Symbol.dispose]();
    this.#unmaskWatch = undefined;
    this.#targets = NO_TARGETS;
  }
}
