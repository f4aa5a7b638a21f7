import type { ConfigRegion } from '../mdev/pci-regions.js';
import { addBar } from '../pci/bar.js';
import { ConfigSpace } from '../pci/config-space.js';
import { msixCapability } from '../pci/msix-capability.js';
import {
  PCI_AF_CAP,
  PCI_AF_CAP_FLR,
  PCI_AF_CAP_TP,
  PCI_AF_CTRL,
  PCI_AF_CTRL_FLR,
  PCI_CACHE_LINE_SIZE,
  PCI_CAP_ID_AF,
  PCI_CAP_ID_EXP,
  PCI_CAP_ID_MSI,
  PCI_CAP_ID_MSIX,
  PCI_CAP_ID_PM,
  PCI_CAP_LIST_NEXT,
  PCI_CFG_SPACE_EXP_SIZE,
  PCI_CFG_SPACE_SIZE,
  PCI_CLASS_DEVICE,
  PCI_COMMAND,
  PCI_COMMAND_INTX_DISABLE,
  PCI_COMMAND_IO,
  PCI_COMMAND_MASTER,
  PCI_COMMAND_MEMORY,
  PCI_DEVICE_ID,
  PCI_EXP_DEVCAP_FLR,
  PCI_EXP_DEVCTL,
  PCI_EXP_DEVCTL_BCR_FLR,
  PCI_EXT_CAP_ID_DSN,
  PCI_EXT_CAP_ID_ERR,
  PCI_INTERRUPT_LINE,
  PCI_INTERRUPT_PIN,
  PCI_MSI_ADDRESS_LO,
  PCI_MSI_FLAGS,
  PCI_MSI_FLAGS_64BIT,
  PCI_MSI_FLAGS_ENABLE,
  PCI_MSI_FLAGS_MASKBIT,
  PCI_MSI_FLAGS_QSIZE,
  PCI_MSI_MASK_64,
  PCI_MSI_PENDING_64,
  PCI_MSIX_FLAGS,
  PCI_MSIX_FLAGS_ENABLE,
  PCI_PM_CTRL,
  PCI_PM_CTRL_NO_SOFT_RESET,
  PCI_PM_CTRL_STATE_MASK,
  PCI_REVISION_ID,
  PCI_STATUS,
  PCI_STATUS_CAP_LIST,
  PCI_STATUS_INTERRUPT,
  PCI_SUBSYSTEM_ID,
  PCI_SUBSYSTEM_VENDOR_ID,
  PCI_VENDOR_ID,
} from '../pci/pci-regs.js';
import type { TestCardOptions } from './options.js';
import {
  MSIX_PBA_AT,
  MSIX_TABLE_AT,
  PCI_CLASS_OTHERS,
  PCI_DEVICE_ID_TESTCARD,
  PCI_DEVICE_ID_TESTCARD_VF,
  PCI_VENDOR_ID_TEST,
  REGISTER_BAR,
  SMALL_BAR,
  SMALL_BAR_BYTES,
  TESTCARD_REVISION,
} from './spec.js';

// PCI Power Management 1.2, 3.2.3: version 3; D1, D2 and PME are not there
const PM_CAPABILITIES = 3;
const D0 = 0;
export const D3HOT = 3;
// PCI Express Base 7.5.3: version 2, endpoint; role-based error reporting; 2.5 GT/s, one lane
const EXPRESS_BYTES = 60;
const EXPRESS_FLAGS = 0x0002;
const EXPRESS_DEVICE = 0x8000;
const EXPRESS_LINK = 0x0000_0011;
const EXPRESS_LINK_STATUS_AT = 0x12;
/** Everything of device control but the reset bit, which always reads 0. */
const DEVICE_CONTROL = 0x7fff;
const DEVICE_ERRORS = 0x000f_0000;
// PCI Express Base 7.8.4
const AER_BYTES = 72;
const AER = {
  uncorrectable: 4,
  mask: 8,
  severity: 12,
  correctable: 16,
  correctableMask: 20,
  control: 24,
} as const;
const AER_SEVERITY = 0x0006_2030;
const AER_BITS = 0x01ff_f030;
const AER_CORRECTABLE_BITS = 0xf1c1;

/** The card behind its configuration space. */
export interface ConfigOwner {
  /** Whether its messages are on, and how many of MSI. */
  readonly isMsixEnabled: boolean;
  readonly enabledMsi: number;
  readonly isPinAsserted: boolean;
  /** Bits of MSI messages that are pending. */
  readonly pendingMsi: number;
  readonly isStuckInD3: boolean;
  /** Faults of the next space that is created. */
  readonly hasBadCapabilities: boolean;
  readonly hasLyingBar: boolean;
  /** After each write: command, mask bits and power state may have changed. */
  followConfig(): void;
  /** The guest resets the function: by FLR, or by leaving D3hot. */
  resetByConfig(): void;
}

const words = (bytes: number, ...values: readonly (readonly [at: number, bytes: 2 | 4, value: number])[]) => {
  const body = new Uint8Array(bytes);
  for (const [at, width, value] of values)
    for (let i = 0; i < width; i++) body[at + i] = (value >>> (8 * i)) & 0xff;
  return body;
};

/** A card's configuration space, with vfio-pci's initial state: memory and ports are decoded. Machine thread only. */
export class TestCardConfig implements ConfigRegion {
  readonly #options: TestCardOptions;
  readonly #owner: ConfigOwner;
  /** Offsets of capabilities; 0 for one that the card lacks. */
  #pmAt = 0;
  #msiAt = 0;
  #msixAt = 0;
  #expressAt = 0;
  #afAt = 0;
  #powerState = D0;
  #msiMask = 0;

  constructor(options: TestCardOptions, owner: ConfigOwner) {
    this.#options = options;
    this.#owner = owner;
  }

  get powerState(): number {
    return this.#powerState;
  }

  /** Bits of MSI messages that the guest masks. */
  get msiMask(): number {
    return this.#msiMask;
  }

  create(): ConfigSpace {
    const { hasIntx, isExpress } = this.#options;
    const space = new ConfigSpace(isExpress ? PCI_CFG_SPACE_EXP_SIZE : PCI_CFG_SPACE_SIZE);
    const command = PCI_COMMAND_IO | PCI_COMMAND_MEMORY;
    space.set(PCI_VENDOR_ID, 2, PCI_VENDOR_ID_TEST);
    const id = this.#options.isVf ? PCI_DEVICE_ID_TESTCARD_VF : PCI_DEVICE_ID_TESTCARD;
    space.set(PCI_DEVICE_ID, 2, id);
    space.set(PCI_COMMAND, 2, command);
    space.allow(PCI_COMMAND, 2, command | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE);
    space.set(PCI_REVISION_ID, 1, TESTCARD_REVISION);
    space.set(PCI_CLASS_DEVICE, 2, PCI_CLASS_OTHERS);
    space.allow(PCI_CACHE_LINE_SIZE, 1, 0xff);
    space.set(PCI_SUBSYSTEM_VENDOR_ID, 2, PCI_VENDOR_ID_TEST);
    space.set(PCI_SUBSYSTEM_ID, 2, PCI_DEVICE_ID_TESTCARD);
    space.allow(PCI_INTERRUPT_LINE, 1, 0xff);
    space.set(PCI_INTERRUPT_PIN, 1, hasIntx ? 1 : 0);
    this.#powerState = D0;
    this.#msiMask = 0;
    this.#addPm(space);
    this.#addMessages(space);
    if (isExpress) this.#addExpress(space);
    if (this.#options.reset === 'af') {
      const body = words(4);
      body[0] = 6; // length of the capability
      body[PCI_AF_CAP - 2] = PCI_AF_CAP_TP | PCI_AF_CAP_FLR;
      this.#afAt = space.addCapability(PCI_CAP_ID_AF, body);
      space.allow(this.#afAt + PCI_AF_CTRL, 1, PCI_AF_CTRL_FLR);
    }
    if (this.#owner.hasBadCapabilities) space.set(this.#pmAt + PCI_CAP_LIST_NEXT, 1, this.#pmAt);
    return space;
  }

  /** What the table of regions has added can lie, too. */
  complete(space: ConfigSpace): void {
    if (!this.#owner.hasLyingBar) return;
    const size = BigInt(16 * SMALL_BAR_BYTES);
    addBar(space, { index: SMALL_BAR, kind: 'memory32', isPrefetchable: false, size });
  }

  beforeRead(space: ConfigSpace): void {
    const { isMsixEnabled, enabledMsi, isPinAsserted, pendingMsi } = this.#owner;
    space.set(PCI_STATUS, 2, PCI_STATUS_CAP_LIST | (isPinAsserted ? PCI_STATUS_INTERRUPT : 0));
    if (this.#msixAt !== 0) {
      const enable = isMsixEnabled ? PCI_MSIX_FLAGS_ENABLE : 0;
      space.set(this.#msixAt + PCI_MSIX_FLAGS, 2, (this.#options.msix - 1) | enable);
    }
    if (this.#msiAt !== 0) {
      const flags = space.read(this.#msiAt + PCI_MSI_FLAGS, 2) & ~PCI_MSI_FLAGS_ENABLE;
      space.set(this.#msiAt + PCI_MSI_FLAGS, 2, flags | (enabledMsi > 0 ? PCI_MSI_FLAGS_ENABLE : 0));
      space.set(this.#msiAt + PCI_MSI_PENDING_64, 4, pendingMsi);
    }
  }

  afterWrite(space: ConfigSpace): void {
    if (this.#msiAt !== 0) this.#msiMask = space.read(this.#msiAt + PCI_MSI_MASK_64, 4);
    const isReset = this.#obeyPowerState(space) || this.#takesReset(space);
    if (isReset) this.#owner.resetByConfig();
    else this.#owner.followConfig();
  }

  /** Returns whether the function leaves D3hot by a reset. PCI Power Management 1.2, 5.4.1 */
  #obeyPowerState(space: ConfigSpace): boolean {
    const wanted = space.read(this.#pmAt + PCI_PM_CTRL, 2) & PCI_PM_CTRL_STATE_MASK;
    const from = this.#powerState;
    const isThere = wanted === D0 || wanted === D3HOT;
    this.#powerState = !isThere || (from === D3HOT && this.#owner.isStuckInD3) ? from : wanted;
    const rest = space.read(this.#pmAt + PCI_PM_CTRL, 2) & ~PCI_PM_CTRL_STATE_MASK;
    space.set(this.#pmAt + PCI_PM_CTRL, 2, rest | this.#powerState);
    return from === D3HOT && this.#powerState === D0 && this.#options.reset === 'pm';
  }

  /** Returns whether one of the reset bits is set, and clears it. */
  #takesReset(space: ConfigSpace): boolean {
    if (this.#options.reset === 'flr' && this.#expressAt !== 0) {
      const at = this.#expressAt + PCI_EXP_DEVCTL;
      const control = space.read(at, 2);
      space.set(at, 2, control & ~PCI_EXP_DEVCTL_BCR_FLR);
      return (control & PCI_EXP_DEVCTL_BCR_FLR) !== 0;
    }
    if (this.#options.reset !== 'af') return false;
    const at = this.#afAt + PCI_AF_CTRL;
    const isSet = (space.read(at, 1) & PCI_AF_CTRL_FLR) !== 0;
    space.set(at, 1, 0);
    return isSet;
  }

  #addPm(space: ConfigSpace): void {
    this.#pmAt = space.addCapability(PCI_CAP_ID_PM, words(6, [0, 2, PM_CAPABILITIES]));
    const keeps = this.#options.reset === 'pm' ? 0 : PCI_PM_CTRL_NO_SOFT_RESET;
    space.set(this.#pmAt + PCI_PM_CTRL, 2, keeps);
    space.allow(this.#pmAt + PCI_PM_CTRL, 2, PCI_PM_CTRL_STATE_MASK);
  }

  #addMessages(space: ConfigSpace): void {
    const { msi, msix } = this.#options;
    if (msi > 0) {
      const flags = (Math.log2(msi) << 1) | PCI_MSI_FLAGS_64BIT | PCI_MSI_FLAGS_MASKBIT;
      this.#msiAt = space.addCapability(PCI_CAP_ID_MSI, words(22, [0, 2, flags]));
      // As in vfio-pci, the guest's messages are the user's: they stand here, and do nothing.
      space.allow(this.#msiAt + PCI_MSI_FLAGS, 2, PCI_MSI_FLAGS_QSIZE);
      space.allow(this.#msiAt + PCI_MSI_ADDRESS_LO, 4, 0xffff_fffc);
      space.allow(this.#msiAt + PCI_MSI_ADDRESS_LO + 4, 4, 0xffff_ffff);
      space.allow(this.#msiAt + PCI_MSI_ADDRESS_LO + 8, 2, 0xffff);
      space.allow(this.#msiAt + PCI_MSI_MASK_64, 4, 2 ** msi - 1);
    }
    if (msix === 0) return;
    const place = (offset: number) => ({ bar: REGISTER_BAR, offset });
    const body = msixCapability(msix, place(MSIX_TABLE_AT), place(MSIX_PBA_AT));
    this.#msixAt = space.addCapability(PCI_CAP_ID_MSIX, body);
  }

  #addExpress(space: ConfigSpace): void {
    const device = EXPRESS_DEVICE | (this.#options.reset === 'flr' ? PCI_EXP_DEVCAP_FLR : 0);
    const body = words(
      EXPRESS_BYTES - 2,
      [0, 2, EXPRESS_FLAGS],
      [2, 4, device],
      [0x0c - 2, 4, EXPRESS_LINK],
      [EXPRESS_LINK_STATUS_AT - 2, 2, EXPRESS_LINK],
    );
    const at = space.addCapability(PCI_CAP_ID_EXP, body);
    this.#expressAt = at;
    const reset = this.#options.reset === 'flr' ? PCI_EXP_DEVCTL_BCR_FLR : 0;
    space.allow(at + PCI_EXP_DEVCTL, 4, DEVICE_CONTROL | reset, DEVICE_ERRORS);
    const aer = space.addExtendedCapability(PCI_EXT_CAP_ID_ERR, 2, words(AER_BYTES - 4));
    space.allow(aer + AER.uncorrectable, 4, 0, AER_BITS);
    space.allow(aer + AER.mask, 4, AER_BITS);
    space.set(aer + AER.severity, 4, AER_SEVERITY);
    space.allow(aer + AER.severity, 4, AER_BITS);
    space.allow(aer + AER.correctable, 4, 0, AER_CORRECTABLE_BITS);
    space.allow(aer + AER.correctableMask, 4, AER_CORRECTABLE_BITS);
    const serial = words(8, [0, 4, PCI_DEVICE_ID_TESTCARD], [4, 4, PCI_VENDOR_ID_TEST]);
    space.addExtendedCapability(PCI_EXT_CAP_ID_DSN, 1, serial);
  }
}
