/** vfio_register_notifier: how a vendor driver follows its group's association with a VM. */
import type { KvmPointer } from './file-ops.js';

/** Type of the chain that tells of the group's VM. */
export const VFIO_GROUP_NOTIFY = 1;

/** Event of VFIO_GROUP_NOTIFY: its data is the VM, or null when the association ends. */
export const VFIO_GROUP_NOTIFY_SET_KVM = 1 << 0;

/** An operation that takes locks, for `yield*` in a driver's openDevice or closeDevice, which are generator functions then. */
export type NotifierSteps = Generator<unknown, void, never>;

/** A listener: struct notifier_block. Called in the machine thread; it must not register or unregister. */
export interface GroupListener {
  /** Name for messages. */
  readonly name: string;
  /** Hears of an event. @param kvm the VM that the group is associated with now; null: with none */
  call(event: number, kvm: KvmPointer | null): void;
}

/** The device that is opened, for those who listen. */
export interface GroupNotifier {
  /**
   * Calls `listener` at each SET_KVM of the device's group, and before it returns, if the group has a VM already.
   * @param events what is wanted: the known bits are cleared
   * @throws SysError EINVAL for another type or event, and for a device that was not opened by its group
   */
  registerNotifier(type: number, events: { mask: number }, listener: GroupListener): NotifierSteps;
  /** When it is done, the listener is not called any more. @throws SysError EINVAL for another type; ENOENT if it is not registered */
  unregisterNotifier(type: number, listener: GroupListener): NotifierSteps;
}
