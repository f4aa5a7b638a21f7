import { Fd } from '../../sys/fd.js';
import { Scope } from '../../sys/scope.js';
import type { IrqPort } from './irq-port.js';
import { attempt, type NoteSubject, note } from './notes.js';

/**
 * The eventfd of a notification about the device itself: VFIO_PCI_ERR_IRQ_INDEX (an uncorrectable error) or
 * VFIO_PCI_REQ_IRQ_INDEX (the host wants the device back).
 */
export interface DeviceSignal extends Disposable {
  readonly fd: number;
}

/** Wires the notification; undefined if the device does not have it. @throws SysError as SET_IRQS; EMFILE */
export function wireSignal(
  name: string,
  what: Extract<NoteSubject, 'err' | 'req'>,
  irq: IrqPort | undefined,
): DeviceSignal | undefined {
  if (irq === undefined) return undefined;
  using scope = new Scope();
  const eventfd = scope.own(Fd.eventfd(`${name} ${what}`));
  irq.trigger(0, [eventfd.number]);
  scope.defer(() => attempt(name, what, () => irq.disable()));
  note(name, what, what === 'err' ? 'error notification wired' : 'device request notification wired');
  const owned = scope.move();
  return { fd: eventfd.number, [Symbol.dispose]: () => owned[Symbol.dispose]() };
}
