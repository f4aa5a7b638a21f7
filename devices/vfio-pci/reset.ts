import { errno } from '../../sys/errno.js';
import { isErrno, SysError } from '../../sys/error.js';
import { monotonicMs } from '../../sys/monotonic.js';
import { type DeviceFile, VFIO_DEVICE_FLAGS_RESET } from '../../vfio/uapi.js';
import {
  PCI_AF_CAP,
  PCI_AF_CAP_FLR,
  PCI_AF_CAP_TP,
  PCI_AF_CTRL,
  PCI_AF_CTRL_FLR,
  PCI_CAP_ID_AF,
  PCI_CAP_ID_EXP,
  PCI_CAP_ID_PM,
  PCI_COMMAND,
  PCI_COMMAND_IO,
  PCI_COMMAND_MASTER,
  PCI_COMMAND_MEMORY,
  PCI_EXP_DEVCAP,
  PCI_EXP_DEVCAP_FLR,
  PCI_EXP_DEVCTL,
  PCI_EXP_DEVCTL_BCR_FLR,
  PCI_PM_CTRL,
  PCI_PM_CTRL_NO_SOFT_RESET,
  PCI_PM_CTRL_STATE_MASK,
  PCI_VENDOR_ID,
} from '../pci/pci-regs.js';
import { walkCapabilities } from './capabilities.js';
import type { DeviceConfig } from './device-config.js';
import { errorText, note, warn } from './notes.js';

const NOBODY = 0xffff;
/** By the values of PCI_PM_CTRL_STATE_MASK. */
const POWER_STATES = ['D0', 'D1', 'D2', 'D3hot'];
/** A reset that takes longer is worth a warning: hardware has 100 ms. PCI Express Base 6.6.2 */
const SLOW_RESET_MS = 1000;

/** Disables decoding and DMA. */
function disconnect(config: DeviceConfig): void {
  const command = config.read(PCI_COMMAND, 2);
  config.write(PCI_COMMAND, 2, command & ~(PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER));
}

/**
 * Prepares the device for a reset: disables decoding and DMA, and moves it to power state D0.
 * @see vfio_pci_pre_reset of QEMU
 */
export function quiesce(config: DeviceConfig): void {
  disconnect(config); // first, as a device that awakes may go on with its DMA
  const at = powerRegister(config);
  if (at !== undefined) {
    const control = config.read(at, 2);
    if ((control & PCI_PM_CTRL_STATE_MASK) === 0) return;
    config.write(at, 2, control & ~PCI_PM_CTRL_STATE_MASK);
    // vfio-pci restores the registers that a device had when it fell asleep, if D3hot resets it.
    disconnect(config);
  }
}

/** Where PCI_PM_CTRL is; undefined without power management. */
function powerRegister(config: DeviceConfig): number | undefined {
  const power = walkCapabilities((at, bytes) => config.read(at, bytes)).find(
    ({ id }) => id === PCI_CAP_ID_PM,
  );
  return power && power.offset + PCI_PM_CTRL;
}

/** Warns if the device has not reached D0, in spite of {@link quiesce} and its reset. QEMU warns, too, and uses the device. */
function checkPower(name: string, config: DeviceConfig): void {
  const at = powerRegister(config);
  const state = at === undefined ? 0 : config.read(at, 2) & PCI_PM_CTRL_STATE_MASK;
  if (state === 0) return;
  const stuck = new SysError({
    call: 'write of power state D0',
    target: `configuration space of ${name}`,
    errno: errno.EIO,
    hint:
      `it is stuck in ${POWER_STATES[state]}, where its BARs read all-ones, so a driver in the guest will fail; power-cycle ` +
      'it, and if that helps, keep it awake on the host: modprobe vfio-pci disable_idle_d3=1',
  });
  warn(name, 'reset', stuck.message);
}

/** The resets that a device's capabilities promise. */
interface ResetMethods {
  /** Function level reset, of PCI Express or of Advanced Features. */
  readonly hasFlr: boolean;
  /** D3hot to D0 resets it. That need not reach everything: its DMA may go on where it was. */
  readonly hasPmReset: boolean;
}

/** @see vfio_check_pcie_flr, vfio_check_pm_reset and vfio_check_af_flr of QEMU */
function resetMethods(config: DeviceConfig): ResetMethods {
  const methods = { hasFlr: false, hasPmReset: false };
  for (const { id, offset } of walkCapabilities((at, bytes) => config.read(at, bytes))) {
    if (id === PCI_CAP_ID_EXP && (config.read(offset + PCI_EXP_DEVCAP, 4) & PCI_EXP_DEVCAP_FLR) !== 0)
      methods.hasFlr = true;
    const both = PCI_AF_CAP_TP | PCI_AF_CAP_FLR;
    if (id === PCI_CAP_ID_AF && (config.read(offset + PCI_AF_CAP, 1) & both) === both) methods.hasFlr = true;
    if (id === PCI_CAP_ID_PM && (config.read(offset + PCI_PM_CTRL, 2) & PCI_PM_CTRL_NO_SOFT_RESET) === 0)
      methods.hasPmReset = true;
  }
  return methods;
}

/** The ways in which a guest resets a function by its registers. */
export interface GuestResets {
  /** Bits of configuration bytes that do it when 1 is written. */
  readonly flr: readonly { readonly offset: number; readonly bit: number }[];
  /** Whether leaving D3hot does. */
  readonly byPower: boolean;
}

export function guestResets(config: DeviceConfig): GuestResets {
  const { hasFlr, hasPmReset } = resetMethods(config);
  const flr = walkCapabilities((at, bytes) => config.read(at, bytes)).flatMap(({ id, offset }) => {
    if (id === PCI_CAP_ID_EXP)
      return [{ offset: offset + PCI_EXP_DEVCTL + 1, bit: PCI_EXP_DEVCTL_BCR_FLR >> 8 }];
    return id === PCI_CAP_ID_AF ? [{ offset: offset + PCI_AF_CTRL, bit: PCI_AF_CTRL_FLR }] : [];
  });
  return { flr: hasFlr ? flr : [], byPower: hasPmReset };
}

/** Whether a guest's write is a function level reset. */
export const isFlr = ({ flr }: GuestResets, offset: number, bytes: number, value: number): boolean =>
  flr.some(
    ({ offset: at, bit }) =>
      at >= offset && at < offset + bytes && ((value >>> (8 * (at - offset))) & bit) !== 0,
  );

/** A device to reset. */
export interface ResetSubject {
  readonly name: string;
  readonly file: DeviceFile;
  readonly config: DeviceConfig;
  /** Resets its slot; undefined if its provider has no such call. */
  readonly resetSlot?: (() => { readonly done: string } | { readonly refused: string }) | undefined;
  /** It is being closed: that the host holds it is then no error. */
  readonly isClosing?: boolean;
}

/**
 * Resets the device as QEMU does: by VFIO_DEVICE_RESET if it has a function level reset, or one that is not through
 * D3hot; else with its slot or bus; else through D3hot. A device without a reset is used as it is, and a note says so; one
 * that stays in another power state than D0, with a warning. Returns whether it was reset by more than D3hot.
 * @see vfio_pci_reset of QEMU
 * @throws SysError of the failed reset; EIO if the device no longer responds
 */
export function resetDevice(subject: ResetSubject): boolean {
  const { name, file, config } = subject;
  quiesce(config);
  const { hasFlr, hasPmReset } = resetMethods(config);
  const hasReset = (file.getInfo().flags & VFIO_DEVICE_FLAGS_RESET) !== 0;
  try {
    const start = monotonicMs();
    const isReset = resetFully(subject, hasReset && (hasFlr || !hasPmReset), hasReset && hasPmReset);
    const ms = monotonicMs() - start;
    if (config.read(PCI_VENDOR_ID, 2) !== NOBODY) {
      if (ms >= SLOW_RESET_MS)
        warn(name, 'reset', `its reset took ${(ms / 1000).toFixed(1)} s: the device may be failing`);
      if (subject.isClosing !== true) checkPower(name, config);
      return isReset;
    }
  } catch (error) {
    if (subject.isClosing !== true || !isErrno(error, 'EAGAIN')) throw error;
    const why = 'the host holds it, as it does while it unbinds or removes it';
    note(
      name,
      'reset',
      `not reset here, which is harmless: ${why}; vfio-pci resets it when it is next opened`,
    );
    return false;
  }
  throw new SysError({
    call: 'read',
    target: `configuration space of ${name}`,
    errno: errno.EIO,
    hint: 'it reads all-ones: the device was removed, is in D3cold, or hung after its reset; power-cycle it',
  });
}

/** VFIO_DEVICE_RESET. Returns false if the kernel finds that it has no reset after all. */
function resetFunction(file: DeviceFile): boolean {
  try {
    file.reset();
    return true;
  } catch (error) {
    if (isErrno(error, 'ENOTTY') || isErrno(error, 'EINVAL')) return false;
    throw error;
  }
}

function resetFully({ name, file, resetSlot }: ResetSubject, isAlone: boolean, isByPower: boolean): boolean {
  let failure: SysError | undefined;
  try {
    if (isAlone && resetFunction(file)) {
      note(name, 'reset', 'the device is reset');
      return true;
    }
  } catch (error) {
    // A host that holds the device lets nobody reset its slot either.
    if (!(error instanceof SysError) || isErrno(error, 'EAGAIN')) throw error;
    failure = error;
  }
  const slot = resetSlot?.() ?? { refused: 'its provider resets no slots' };
  if ('done' in slot) {
    if (failure !== undefined)
      warn(name, 'reset', `it is reset with its slot instead: ${errorText(failure)}`);
    note(name, 'reset', `the device is reset with its slot: ${slot.done}`);
    return true;
  }
  if (failure !== undefined) throw unresettable(failure, slot.refused);
  const text =
    isByPower && resetFunction(file)
      ? 'went through D3hot only, which may leave its DMA as its last user set it up'
      : 'not reset: it keeps the state of its last user';
  note(name, 'reset', `${text}. No reset of its slot: ${slot.refused}`);
  return false;
}

/** The device has a reset, which fails: whatever its last user left in it would be the guest's, and its DMA may run. */
function unresettable(failure: SysError, refused: string): SysError {
  const { call, target, errno: number, hint } = failure;
  const rest = `it still has the state of its last user; no reset of its slot: ${refused}; power-cycle it`;
  return new SysError({
    ...{ call, target, errno: number, cause: failure },
    hint: hint === undefined ? rest : `${hint}; ${rest}`,
  });
}
