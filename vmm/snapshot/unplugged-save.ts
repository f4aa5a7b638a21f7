/** Saves a machine without the devices that cannot be saved: the guest releases them first, and gets them back afterwards. */
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { DeviceConfig } from '../config.js';
import { checkFolder, type SnapshotInfo } from './folder.js';

/** A device that cannot be saved. */
export interface UnsavableDevice {
  /** PCI slot. */
  readonly slot: number;
  /** `00:05.0 0000:01:00.0` */
  readonly name: string;
  /** A part of a sentence: `it has no migration`. */
  readonly why: string;
}

/** How {@link VirtualMachine.snapshot} saves. */
export interface SnapshotOptions {
  /**
   * Asks the guest for each device that cannot be saved, unplugs it, and plugs it again once the rest is saved; {@link
   * VirtualMachine.restore} plugs it, or another one that is chosen for its slot. Default: false, such a device is an error
   */
  readonly detachUnmigratable?: boolean | undefined;
  /** How long the guest has to release each of them, in milliseconds. Default: 30,000 */
  readonly timeoutMs?: number | undefined;
}

/** What of a machine {@link saveUnplugged} uses. Main thread. */
export interface UnpluggableMachine {
  /** Those that it has now, with their slots. */
  devices(): readonly DeviceConfig[];
  readonly isPaused: boolean;
  unsavable(): Promise<readonly UnsavableDevice[]>;
  detach(slot: number, options: { readonly timeoutMs?: number }): Promise<void>;
  attach(devices: readonly DeviceConfig[]): Promise<unknown>;
  /** @param unplugged devices that the machine has, but for this moment */
  save(folder: string, unplugged: readonly DeviceConfig[]): Promise<SnapshotInfo>;
}

/**
 * Saves the machine; it has all of its devices again when this returns or throws, unless the error says so.
 * @throws SysError of the detaching that failed, naming the device and why it had to go; EBUSY for a paused machine, whose guest cannot
 *   release anything; as save
 */
export async function saveUnplugged(
  machine: UnpluggableMachine,
  folder: string,
  timeoutMs?: number,
): Promise<SnapshotInfo> {
  checkFolder(folder);
  const unsavable = await machine.unsavable();
  if (unsavable.length > 0 && machine.isPaused) {
    const hint = 'the guest has to release it, and is paused: resume it';
    throw new SysError({ call: 'snapshot', target: unsavable[0]?.name ?? '', errno: errno.EBUSY, hint });
  }
  const unplugged: DeviceConfig[] = [];
  try {
    for (const slot of new Set(unsavable.map((device) => device.slot))) {
      const functions = machine.devices().filter((device) => device.slot === slot);
      await unplug(
        machine,
        unsavable.filter((device) => device.slot === slot),
        timeoutMs,
      );
      unplugged.push(...functions);
    }
  } catch (error) {
    await plugAgain(machine, unplugged, error);
    throw error;
  }
  let saved: SnapshotInfo;
  try {
    saved = await machine.save(folder, unplugged);
  } catch (error) {
    await plugAgain(machine, unplugged, error);
    throw error;
  }
  await plugAgain(machine, unplugged);
  return saved;
}

async function unplug(
  machine: UnpluggableMachine,
  devices: readonly UnsavableDevice[],
  timeoutMs: number | undefined,
): Promise<void> {
  const { slot, name, why } = devices[0] as UnsavableDevice;
  try {
    await machine.detach(slot, timeoutMs === undefined ? {} : { timeoutMs });
  } catch (error) {
    if (!(error instanceof SysError)) throw error;
    const hint = `it cannot be saved (${why}) and was to be unplugged: ${error.hint ?? error.message}`;
    throw new SysError({ call: 'snapshot', target: name, errno: error.errno, hint });
  }
}

/** @param cause what has failed before; it stays what is thrown @throws SysError that names what the machine has lost */
async function plugAgain(
  machine: UnpluggableMachine,
  devices: readonly DeviceConfig[],
  cause?: unknown,
): Promise<void> {
  if (devices.length === 0) return;
  try {
    await machine.attach(devices);
  } catch (error) {
    const names = devices.map(({ address, slot }) => `${address} of slot ${slot}`).join(', ');
    const before =
      cause === undefined ? 'the machine is saved' : `it was not saved: ${(cause as Error).message}`;
    throw new SysError({
      call: 'attach',
      target: names,
      errno: error instanceof SysError ? error.errno : errno.EIO,
      hint: `it was unplugged for a snapshot, and cannot be plugged again: ${(error as Error).message}; ${before}`,
    });
  }
}
