import { Scope } from '../../sys/scope.js';
import type { OpenedVf, PciFunction, PciFunctionState, PciWiring } from '../../vfio/assign/index.js';
import type { SriovFunctions } from '../../vfio/sriov.js';
import type { DeviceFile } from '../../vfio/uapi.js';
import type { PciEnvironment } from '../contracts.js';
import type { BarShape } from '../pci/bar.js';
import {
  PCI_BASE_ADDRESS_0,
  PCI_BASE_ADDRESS_5,
  PCI_CAP_ID_MSI,
  PCI_CAP_ID_MSIX,
  PCI_CAP_ID_PM,
  PCI_COMMAND,
  PCI_COMMAND_INTX_DISABLE,
  PCI_COMMAND_IO,
  PCI_COMMAND_MASTER,
  PCI_COMMAND_MEMORY,
  PCI_PM_CTRL,
  PCI_PM_CTRL_STATE_MASK,
  PCI_ROM_ADDRESS,
} from '../pci/pci-regs.js';
import { type Decode, NO_DECODE } from './bars.js';
import type { ConfigShadow } from './config-shadow.js';
import type { DeviceConfig } from './device-config.js';
import { type DeviceParts, openParts, type SlotOptions } from './device-parts.js';
import type { InterruptMode, InterruptModeName } from './interrupt-mode.js';
import { attempt, noteMisuse } from './notes.js';
import { isFlr, quiesce } from './reset.js';
import { decodeFunction, encodeFunction, register, restoredRegisters } from './saved-state.js';
import type { SlotMember } from './slot-members.js';

/**
 * A PCI device assigned through a VFIO device file, as one function on the guest's bus. Borrows the file, which must
 * outlive it. Nothing that a guest writes makes it throw. Machine thread only.
 */
export class VfioPciDevice implements PciFunction, SlotMember {
  /** Name for messages: `00:03.0 virtio-net`. */
  readonly name: string;
  readonly #parts: DeviceParts;
  readonly #owned: Scope;
  /** Whether the device is in power state D0; in any other, its BARs are not decoded. */
  #isAwake: boolean;

  private constructor(name: string, parts: DeviceParts, owned: Scope) {
    this.name = name;
    this.#parts = parts;
    this.#isAwake = isInD0(parts.shadow, parts.config);
    this.#owned = owned;
  }

  /**
   * Resets the device and creates a function for it, with decoding, bus mastering, MSI and MSI-X disabled. Publishes
   * each step on trace.vfio.
   * @param name identifies the function in notes and errors: `00:03.0 virtio-net`
   * @param slot resets its slot, where it has no function level reset; absent if nothing can
   * @param sriov the VFs that the guest can enable, if `wiring` has places for them
   * @throws SysError ENODEV if it is not a PCI device, or is a bridge; EIO if it does not respond; any error of the
   *   VFIO calls
   */
  static open(
    name: string,
    file: DeviceFile,
    environment: PciEnvironment,
    wiring: PciWiring = {},
    slot?: SlotOptions,
    sriov?: SriovFunctions<OpenedVf>,
  ): VfioPciDevice {
    using scope = new Scope();
    let device: VfioPciDevice | undefined;
    const parts = openParts(
      {
        ...{ name, file, environment, wiring, slot, sriov },
        member: () => device,
        openVf: (vf, vfFile) => VfioPciDevice.open(vf, vfFile, environment),
      },
      scope,
    );
    device = new VfioPciDevice(name, parts, scope.move());
    if (slot !== undefined) device.#owned.own(slot.members.add(slot.reset.address, device));
    return device;
  }

  /** The device's BARs, without the ROM. */
  get bars(): readonly BarShape[] {
    return this.#parts.shapes;
  }

  /** The kind of interrupt in use. */
  get interruptMode(): InterruptModeName {
    return this.#parts.mode.name;
  }

  inspect(): PciFunctionState {
    const { bars, mode, sriov } = this.#parts;
    const own = { bars: bars.states, interrupts: mode.state };
    return sriov === undefined ? own : { ...own, virtualFunctions: sriov.vfs.states };
  }

  configRead(offset: number, bytes: number): number {
    const { shadow, msi } = this.#parts;
    msi?.refreshPending(offset, bytes);
    return shadow.read(offset, bytes);
  }

  configWrite(offset: number, bytes: number, value: number): void {
    const { shadow, bars, mode, config } = this.#parts;
    const touches = (start: number | undefined, length: number): boolean =>
      start !== undefined && offset < start + length && start < offset + bytes;
    const power = powerRegister(shadow);
    const before = this.#decode();
    const wasAwake = this.#isAwake;
    if (!isAddress(offset)) this.#parts.resets.isClean = false;

    shadow.write(offset, bytes, value);
    const isPowerWrite = touches(power, 1);
    if (isPowerWrite && power !== undefined) {
      this.#isAwake &&= ((value >>> (8 * (power - offset))) & PCI_PM_CTRL_STATE_MASK) === 0;
    }
    // Hide BARs before the device stops decoding: Linux then removes the memory under a mapped BAR. Show BARs after
    // the device starts decoding.
    const after = this.#decode();
    if ((before.memory && !after.memory) || (before.io && !after.io)) {
      bars.update({ memory: before.memory && after.memory, io: before.io && after.io });
    }
    shadow.forward(offset, bytes, value);
    if (isPowerWrite) this.#isAwake = isInD0(shadow, config);
    if (
      isPowerWrite ||
      touches(PCI_COMMAND, 1) ||
      touches(PCI_BASE_ADDRESS_0, PCI_BASE_ADDRESS_5 + 4 - PCI_BASE_ADDRESS_0) ||
      touches(PCI_ROM_ADDRESS, 4)
    ) {
      bars.update(this.#decode());
    }
    if (
      touches(shadow.find(PCI_CAP_ID_MSI), MSI_SIZEOF) ||
      touches(shadow.find(PCI_CAP_ID_MSIX), MSIX_CONTROL_END)
    )
      this.#updateInterrupts(mode);
    this.#followSriov(offset, bytes, value, !wasAwake && this.#isAwake);
  }

  /** @see PciFunction.save */
  save(): Uint8Array {
    const { shadow, mode, msix } = this.#parts;
    const pending = mode.settle();
    return encodeFunction({ config: shadow.contents, table: msix?.table ?? NO_TABLE, pending });
  }

  /** @see PciFunction.load */
  load(data: Uint8Array): void {
    const { shadow, bars, mode, msix, sriov } = this.#parts;
    const now = { config: shadow.contents, table: msix?.table ?? NO_TABLE };
    const { config, table, pending } = decodeFunction(data, now);
    this.#parts.resets.isClean = false;
    sriov?.vfs.reset();
    bars.update(NO_DECODE);
    mode.stop();
    // MSI and MSI-X come on last: a device that masks by its own table needs that first.
    const silent = Uint8Array.from(config);
    const controls = [PCI_CAP_ID_MSI, PCI_CAP_ID_MSIX].flatMap((id) => shadow.find(id) ?? []);
    for (const at of controls) silent.fill(0, at + 2, at + 4);
    shadow.load(silent);
    shadow.agree();
    if (msix !== undefined) bars.writeMsixTable(msix.shape.table, table);
    for (const at of controls) shadow.write(at + 2, 2, register(config, at + 2, 2));
    shadow.agree();
    this.#isAwake = isInD0(shadow, this.#parts.config);
    bars.update(this.#decode());
    for (const { at, bytes, mask } of restoredRegisters((id) => shadow.find(id), config)) {
      const theirs = this.configRead(at, bytes);
      const wanted = (theirs & ~mask) | (register(config, at, bytes) & mask);
      if (wanted !== theirs) this.configWrite(at, bytes, wanted);
    }
    sriov?.vfs.update(); // they come anew: what was in them is not the function's
    mode.update();
    for (const vector of pending) mode.raise(vector);
    const isPinOff = (register(config, PCI_COMMAND, 2) & PCI_COMMAND_INTX_DISABLE) !== 0;
    // An interrupt that was on its way is not known, and one too many is no harm.
    if (mode.name === 'intx' && !isPinOff) mode.raise(0);
  }

  /**
   * Resets the device and its emulated state to power-on values, as a machine reset does.
   * @throws SysError as {@link VfioPciDevice.open}
   */
  reset(): void {
    this.stop();
    this.resume();
  }

  /** The first half of {@link reset}: the guest no longer uses the device, and its emulated state is that of power-on. */
  stop(): void {
    const { config, shadow, bars, mode, msix, sriov } = this.#parts;
    sriov?.vfs.reset();
    bars.update(NO_DECODE);
    mode.stop();
    shadow.reset();
    msix?.reset();
    quiesce(config);
  }

  /**
   * The second half of {@link reset}; the reset itself only if the device was used since the last one.
   * @param isFinal it will be disposed: its interrupts stay off
   */
  resume(isFinal = false): void {
    this.#parts.resets.reset(isFinal);
    if (!isFinal) this.#agree();
  }

  /** Whether the guest neither lets it decode nor lets it do DMA, and has no VFs of it. */
  get isIdle(): boolean {
    if (this.#parts.sriov?.vfs.isEnabled === true) return false;
    return (this.#parts.shadow.space.read(PCI_COMMAND, 2) & IN_USE) === 0;
  }

  beforeReset(): void {
    this.#parts.sriov?.vfs.reset();
    this.#parts.mode.stop();
    quiesce(this.#parts.config);
  }

  afterReset(isReset: boolean): void {
    if (isReset) this.#parts.resets.isClean = true;
    this.#agree();
  }

  /** Detaches the device from the guest, stops its DMA and resets it. Never throws; failures are noted. */
  [Symbol.dispose](): void {
    this.#parts.bars.update(NO_DECODE);
    attempt(this.name, 'close', () => this.#owned[Symbol.dispose]());
  }

  /** After a reset: device and shadow agree again, and interrupts are wired as the shadow says. */
  #agree(): void {
    const { shadow, config, mode } = this.#parts;
    shadow.agree();
    this.#isAwake = isInD0(shadow, config);
    mode.update();
  }

  /** VFs come and go with the guest's writes, and a reset of the function ends them. @param hasAwoken it has left D3hot */
  #followSriov(offset: number, bytes: number, value: number, hasAwoken: boolean): void {
    const { sriov } = this.#parts;
    if (sriov === undefined) return;
    const { vfs, resets } = sriov;
    if (isFlr(resets, offset, bytes, value) || (hasAwoken && resets.byPower)) vfs.reset();
    else if (vfs.touches(offset, bytes)) vfs.update();
  }

  #decode(): Decode {
    const command = this.#parts.shadow.space.read(PCI_COMMAND, 2);
    return {
      memory: this.#isAwake && (command & PCI_COMMAND_MEMORY) !== 0,
      io: this.#isAwake && (command & PCI_COMMAND_IO) !== 0,
    };
  }

  #updateInterrupts(mode: InterruptMode): void {
    const { msi, msix } = this.#parts;
    if (msi?.isEnabled && msix?.isEnabled) noteMisuse(this.name, 'msix', 'MSI and MSI-X are both enabled');
    mode.update();
  }
}

function powerRegister(shadow: ConfigShadow): number | undefined {
  const capability = shadow.find(PCI_CAP_ID_PM);
  return capability === undefined ? undefined : capability + PCI_PM_CTRL;
}

/** What the device says, which may stay in another power state. */
function isInD0(shadow: ConfigShadow, config: DeviceConfig): boolean {
  const power = powerRegister(shadow);
  return power === undefined || (config.read(power, 2) & PCI_PM_CTRL_STATE_MASK) === 0;
}

const NO_TABLE = new Uint8Array(0);
const IN_USE = PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;

/**
 * Whether a register is a BAR or the ROM's: firmware writes them, too. Most devices never see them, and none has anything
 * of a user left by them, as {@link ConfigShadow.agree} sets them.
 */
const isAddress = (offset: number): boolean =>
  (offset >= PCI_BASE_ADDRESS_0 && offset < PCI_BASE_ADDRESS_5 + 4) || (offset & ~3) === PCI_ROM_ADDRESS;

/** Size of the longest MSI capability, and of MSI-X up to its control register. */
const MSI_SIZEOF = 24;
const MSIX_CONTROL_END = 4;
