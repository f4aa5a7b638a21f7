import type { BarShape } from '../pci/bar.js';
import { addBar, addRomBar, barRegister } from '../pci/bar.js';
import { allOnes, ConfigSpace } from '../pci/config-space.js';
import {
  PCI_BASE_ADDRESS_0,
  PCI_BASE_ADDRESS_5,
  PCI_BASE_ADDRESS_IO_MASK,
  PCI_BASE_ADDRESS_MEM_MASK,
  PCI_CAP_ID_EXP,
  PCI_CAP_ID_MSI,
  PCI_CAP_ID_MSIX,
  PCI_CAP_MSIX_SIZEOF,
  PCI_CAPABILITY_LIST,
  PCI_CFG_SPACE_EXP_SIZE,
  PCI_CFG_SPACE_SIZE,
  PCI_COMMAND,
  PCI_COMMAND_INTX_DISABLE,
  PCI_COMMAND_IO,
  PCI_COMMAND_MASTER,
  PCI_COMMAND_MEMORY,
  PCI_EXP_FLAGS,
  PCI_EXP_FLAGS_TYPE,
  PCI_EXP_FLAGS_VERS,
  PCI_EXP_LNKCAP,
  PCI_EXP_LNKCAP2,
  PCI_EXP_TYPE_ENDPOINT,
  PCI_EXP_TYPE_RC_END,
  PCI_EXT_CAP_SRIOV_SIZEOF,
  PCI_HEADER_TYPE,
  PCI_HEADER_TYPE_MASK,
  PCI_INTERRUPT_LINE,
  PCI_INTERRUPT_PIN,
  PCI_MSI_ADDRESS_LO,
  PCI_MSI_DATA_32,
  PCI_MSI_DATA_64,
  PCI_MSI_FLAGS,
  PCI_MSI_FLAGS_64BIT,
  PCI_MSI_FLAGS_ENABLE,
  PCI_MSI_FLAGS_MASKBIT,
  PCI_MSI_FLAGS_QMASK,
  PCI_MSI_FLAGS_QSIZE,
  PCI_MSIX_FLAGS,
  PCI_MSIX_FLAGS_ENABLE,
  PCI_MSIX_FLAGS_MASKALL,
  PCI_ROM_ADDRESS,
  PCI_ROM_ADDRESS_ENABLE,
  PCI_ROM_ADDRESS_MASK,
  PCI_STATUS,
  PCI_STATUS_CAP_LIST,
} from '../pci/pci-regs.js';
import {
  type Capability,
  endOf,
  hiddenExtendedReason,
  hiddenReason,
  walkCapabilities,
  walkExtendedCapabilities,
} from './capabilities.js';
import type { DeviceConfig } from './device-config.js';
import { note } from './notes.js';
import { addSriovRegisters, type SriovPlan, sriovProblem } from './sriov-registers.js';

/** What the shadow needs to know about the rest of the device. */
export interface ShadowPlan {
  readonly bars: readonly BarShape[];
  /** Size of the expansion ROM's BAR; undefined without a ROM. */
  readonly rom: bigint | undefined;
  /** 1 to 4 for INTA to INTD, 0 for none. */
  readonly interruptPin: number;
  /** The I/O APIC pin, as firmware would write it. */
  readonly interruptLine: number;
  /** MSI vectors that the provider can signal; 0 hides the capability. */
  readonly msiVectors: number;
  /** Like {@link ShadowPlan.msiVectors}, for MSI-X; also 0 if the capability is invalid. */
  readonly msixVectors: number;
  /** The SR-IOV capability that a guest sees, which is not the device's; absent for a device without VFs. */
  readonly sriov?: SriovPlan | undefined;
  /** @see DeviceFile.takesEmulatedWrites */
  readonly takesEmulatedWrites?: boolean;
}

/** How a register differs from the device's. */
interface Emulation {
  /** Bits that are emulated here instead of read from the device. */
  readonly mask: number;
  readonly value?: number;
  /** Bits of `mask` that a guest may change. */
  readonly writable?: number;
  /** Whether a guest's write is forwarded to the device as well; not by default. */
  readonly isForwarded?: boolean;
}

const GUEST_COMMAND_BITS =
  PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE;

/**
 * The configuration space that a guest sees. Every bit is either the device's or emulated here. A guest's write changes
 * emulated bits through their masks, and is forwarded to the device where the device needs it:
 *
 *   command          decoding, bus master and INTx disable read back as written; all bits are forwarded
 *   header type      single function; the host bridge sets the multi-function bit
 *   BARs, ROM        emulated; only a device that decodes by itself sees guest addresses
 *   interrupt line   emulated; the pin is the device's, or 0 if it is not routed
 *   MSI, MSI-X       control is emulated and forwarded; address, data and masks only to a device that masks by itself
 *   PCI Express      an endpoint becomes a root complex integrated one without a link, as it has no port above it
 *   SR-IOV           emulated: VFs are devices of their own, which the guest's writes create and remove
 *   others           the device's; capabilities that expose the host are unlinked and read as 0
 */
export class ConfigShadow {
  /** Values of the emulated bits; other bits are 0. */
  readonly space: ConfigSpace;
  /** Bytes that a guest sees: 4096 for a PCI Express device, else 256. */
  readonly size: number;
  /** Offsets of the visible capabilities by id; the first one if several share an id. */
  readonly #visible = new Map<number, number>();
  readonly #name: string;
  readonly #device: DeviceConfig;
  readonly #emulated: Uint8Array<ArrayBuffer>;
  readonly #forwarded: Uint8Array<ArrayBuffer>;
  /** Registers with bits that a guest changes here and in the device. */
  readonly #shared: { readonly offset: number; readonly bytes: number; readonly mask: number }[] = [];
  /** Values at power-on. */
  #initial = new Uint8Array();
  #hasSriov = false;

  private constructor(name: string, device: DeviceConfig, isExpress: boolean) {
    this.#name = name;
    this.#device = device;
    this.size = isExpress ? PCI_CFG_SPACE_EXP_SIZE : PCI_CFG_SPACE_SIZE;
    this.space = new ConfigSpace(isExpress ? PCI_CFG_SPACE_EXP_SIZE : PCI_CFG_SPACE_SIZE);
    this.#emulated = new Uint8Array(this.size);
    this.#forwarded = new Uint8Array(this.size).fill(0xff);
  }

  static create(name: string, device: DeviceConfig, plan: ShadowPlan): ConfigShadow {
    const read = device.read.bind(device);
    const capabilities = walkCapabilities(read);
    const isExpress =
      device.size >= PCI_CFG_SPACE_EXP_SIZE && capabilities.some(({ id }) => id === PCI_CAP_ID_EXP);
    const shadow = new ConfigShadow(name, device, isExpress);
    shadow.#addHeader(plan);
    shadow.#addCapabilities(capabilities, plan);
    if (isExpress) shadow.#addExtendedCapabilities(walkExtendedCapabilities(read), plan.sriov);
    else if (plan.sriov !== undefined) note(name, 'sriov', 'no virtual functions: it is not PCI Express');
    shadow.#initial = shadow.space.values.slice();
    return shadow;
  }

  /** Offset of a visible standard capability; undefined if there is none. */
  find(id: number): number | undefined {
    return this.#visible.get(id);
  }

  /** Whether it has the SR-IOV capability of its plan. */
  get hasSriov(): boolean {
    return this.#hasSriov;
  }

  /** A guest's read; arguments as in PciFunction.configRead. */
  read(offset: number, bytes: number): number {
    if (offset + bytes > this.size) return allOnes(bytes);
    const emulated = this.#maskAt(this.#emulated, offset, bytes);
    const own = this.space.read(offset, bytes);
    if (emulated === allOnes(bytes)) return own;
    const theirs = this.#device.read(offset, bytes);
    return ((theirs & ~emulated) | (own & emulated)) >>> 0;
  }

  /** Applies a guest's write to the emulated bits. {@link forward} does the rest. */
  write(offset: number, bytes: number, value: number): void {
    this.space.write(offset, bytes, value);
  }

  /** Forwards the bits of a guest's write that are meant for the device. */
  forward(offset: number, bytes: number, value: number): void {
    if (offset + bytes > this.size) return;
    const mask = this.#maskAt(this.#forwarded, offset, bytes);
    if (mask !== 0) this.#device.write(offset, bytes, (value & mask) >>> 0);
  }

  /** Resets the emulated bits to their power-on values. Call {@link agree} once the device is reset, too. */
  reset(): void {
    this.space.values.set(this.#initial);
  }

  /**
   * Makes the device agree with the bits that are emulated and forwarded: decoding, bus master and INTx disable, MSI and
   * MSI-X control, and addresses and messages where it takes them. A device's reset does not: Linux restores these
   * registers after it, and some devices have no reset.
   */
  agree(): void {
    for (const { offset, bytes, mask } of this.#shared) {
      const theirs = this.#device.read(offset, bytes);
      const wanted = ((theirs & ~mask) | (this.space.read(offset, bytes) & mask)) >>> 0;
      if (wanted !== theirs) this.#device.write(offset, bytes, wanted);
    }
  }

  /** All that the guest reads, for a saved state. */
  get contents(): Uint8Array {
    const bytes = new Uint8Array(this.size);
    const view = new DataView(bytes.buffer);
    for (let at = 0; at < this.size; at += 4) view.setUint32(at, this.read(at, 4), true);
    return bytes;
  }

  /**
   * Writes to all emulated registers what a guest that had set them up so would have written; bits that it cannot change stay as
   * they are. Call {@link agree} then. @param contents of such a space
   */
  load(contents: Uint8Array): void {
    this.reset();
    this.space.writeBytes(0, contents.subarray(0, this.size));
  }

  #maskAt(masks: Uint8Array, offset: number, bytes: number): number {
    let mask = 0;
    for (let i = bytes - 1; i >= 0; i--) mask = mask * 256 + (masks[offset + i] as number);
    return mask;
  }

  #emulate(offset: number, bytes: number, emulation: Emulation): void {
    const { mask, value = 0, writable = 0, isForwarded = false } = emulation;
    for (let i = 0; i < bytes; i++) this.#emulated[offset + i] = (mask >>> (8 * i)) & 0xff;
    this.#forwarded.fill(isForwarded ? 0xff : 0, offset, offset + bytes);
    if (isForwarded && writable !== 0) this.#shared.push({ offset, bytes, mask: writable & mask });
    this.space.set(offset, bytes, value & mask);
    this.space.allow(offset, bytes, writable & mask);
  }

  /** Makes the bytes read 0 and ignore writes. */
  #hide(start: number, end: number): void {
    for (let at = start; at < end; at++) this.#emulate(at, 1, { mask: 0xff });
  }

  /** After {@link #emulate}: forwards the register as well. `mask` has the bits that the device then agrees on. */
  #forwardToo(offset: number, mask: number): void {
    this.#forwarded.fill(0xff, offset, offset + 4);
    this.#shared.push({ offset, bytes: 4, mask });
  }

  #addHeader(plan: ShadowPlan): void {
    this.#hide(PCI_BASE_ADDRESS_0, PCI_BASE_ADDRESS_5 + 4);
    for (const bar of plan.bars) addBar(this.space, bar);
    this.#hide(PCI_ROM_ADDRESS, PCI_ROM_ADDRESS + 4);
    if (plan.rom !== undefined) addRomBar(this.space, plan.rom);
    // Before the command register: a device that starts to decode must know where.
    if (plan.takesEmulatedWrites === true) this.#forwardAddresses(plan);
    this.#emulate(PCI_COMMAND, 2, {
      mask: GUEST_COMMAND_BITS,
      writable: GUEST_COMMAND_BITS,
      isForwarded: true,
    });
    this.#emulate(PCI_STATUS, 2, { mask: PCI_STATUS_CAP_LIST, isForwarded: true });
    const headerType = this.#device.read(PCI_HEADER_TYPE, 1) & PCI_HEADER_TYPE_MASK;
    this.#emulate(PCI_HEADER_TYPE, 1, { mask: 0xff, value: headerType });
    this.#emulate(PCI_CAPABILITY_LIST, 1, { mask: 0xff });
    this.#emulate(PCI_INTERRUPT_LINE, 1, { mask: 0xff, value: plan.interruptLine, writable: 0xff });
    this.#emulate(PCI_INTERRUPT_PIN, 1, { mask: 0xff, value: plan.interruptPin });
  }

  #forwardAddresses({ bars, rom }: ShadowPlan): void {
    for (const { index, kind } of bars) {
      this.#forwardToo(
        barRegister(index),
        kind === 'io' ? PCI_BASE_ADDRESS_IO_MASK : PCI_BASE_ADDRESS_MEM_MASK,
      );
      if (kind === 'memory64') this.#forwardToo(barRegister(index + 1), 0xffffffff);
    }
    if (rom !== undefined) this.#forwardToo(PCI_ROM_ADDRESS, PCI_ROM_ADDRESS_MASK | PCI_ROM_ADDRESS_ENABLE);
  }

  #addCapabilities(capabilities: readonly Capability[], plan: ShadowPlan): void {
    let link = PCI_CAPABILITY_LIST;
    for (const capability of capabilities) {
      const { id, offset } = capability;
      const reason = reasonToHide(id, plan);
      if (reason !== undefined) {
        this.#hide(offset, endOf(capability, capabilities, PCI_CFG_SPACE_SIZE));
        note(this.#name, 'config', `capability at 0x${offset.toString(16)} hidden: ${reason}`);
        continue;
      }
      this.#emulate(offset, 2, { mask: 0xffff, value: id });
      this.space.set(link, 1, offset);
      this.space.set(PCI_STATUS, 1, PCI_STATUS_CAP_LIST);
      link = offset + 1;
      if (this.#visible.has(id)) continue;
      this.#visible.set(id, offset);
      if (id === PCI_CAP_ID_MSI) this.#addMsi(offset, plan);
      else if (id === PCI_CAP_ID_MSIX) this.#addMsix(offset);
      else if (id === PCI_CAP_ID_EXP) this.#addExpress(offset);
    }
  }

  #addMsi(
    offset: number,
    { msiVectors: vectors, takesEmulatedWrites: isForwarded = false }: ShadowPlan,
  ): void {
    const control = this.#device.read(offset + PCI_MSI_FLAGS, 2);
    const capable = Math.min((control & PCI_MSI_FLAGS_QMASK) >> 1, Math.floor(Math.log2(vectors)), 5);
    const is64 = (control & PCI_MSI_FLAGS_64BIT) !== 0;
    this.#emulate(offset + PCI_MSI_FLAGS, 2, {
      mask: 0xffff,
      value: (control & (PCI_MSI_FLAGS_64BIT | PCI_MSI_FLAGS_MASKBIT)) | (capable << 1),
      writable: PCI_MSI_FLAGS_ENABLE | PCI_MSI_FLAGS_QSIZE,
      isForwarded: true,
    });
    const word = { mask: 0xffffffff, writable: 0xffffffff, isForwarded };
    this.#emulate(offset + PCI_MSI_ADDRESS_LO, 4, { ...word, writable: 0xfffffffc });
    const data = offset + (is64 ? PCI_MSI_DATA_64 : PCI_MSI_DATA_32);
    if (is64) this.#emulate(offset + PCI_MSI_ADDRESS_LO + 4, 4, word);
    this.#emulate(data, 2, { mask: 0xffff, writable: 0xffff, isForwarded });
    if ((control & PCI_MSI_FLAGS_MASKBIT) === 0) return;
    const vectorBits = 2 ** (1 << capable) - 1;
    this.#emulate(data + 2, 2, { mask: 0xffff });
    this.#emulate(data + 4, 4, { ...word, writable: vectorBits });
    this.#emulate(data + 8, 4, { mask: 0xffffffff });
  }

  #addMsix(offset: number): void {
    this.#emulate(offset + PCI_MSIX_FLAGS, 2, {
      mask: 0xffff,
      value:
        this.#device.read(offset + PCI_MSIX_FLAGS, 2) & ~(PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL),
      writable: PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL,
      isForwarded: true,
    });
    for (let at = offset + 4; at < offset + PCI_CAP_MSIX_SIZEOF; at += 4) {
      this.#emulate(at, 4, { mask: 0xffffffff, value: this.#device.read(at, 4) });
    }
  }

  #addExpress(offset: number): void {
    const flags = this.#device.read(offset + PCI_EXP_FLAGS, 2);
    if ((flags & PCI_EXP_FLAGS_TYPE) >> 4 === PCI_EXP_TYPE_ENDPOINT) {
      this.#emulate(offset + PCI_EXP_FLAGS, 2, {
        mask: PCI_EXP_FLAGS_TYPE,
        value: PCI_EXP_TYPE_RC_END << 4,
        isForwarded: true,
      });
    }
    // Link capabilities, control and status. Version 2 added the second set.
    this.#hide(offset + PCI_EXP_LNKCAP, offset + PCI_EXP_LNKCAP + 8);
    if ((flags & PCI_EXP_FLAGS_VERS) >= 2) this.#hide(offset + PCI_EXP_LNKCAP2, offset + PCI_EXP_LNKCAP2 + 8);
  }

  #addExtendedCapabilities(capabilities: readonly Capability[], sriov: SriovPlan | undefined): void {
    let last = PCI_CFG_SPACE_SIZE;
    // The list must start at 0x100. An entry with id 0 and a next pointer is skipped by guests.
    this.#emulate(PCI_CFG_SPACE_SIZE, 4, { mask: 0xffffffff });
    for (const capability of capabilities) {
      const { id, offset, version } = capability;
      const reason = hiddenExtendedReason(id);
      if (reason !== undefined) {
        this.#hide(offset, endOf(capability, capabilities, PCI_CFG_SPACE_EXP_SIZE));
        note(this.#name, 'config', `capability at 0x${offset.toString(16)} hidden: ${reason}`);
        continue;
      }
      this.#emulate(offset, 4, { mask: 0xffffffff, value: id | (version << 16) });
      if (offset === PCI_CFG_SPACE_SIZE) continue;
      this.space.set(last, 4, this.space.read(last, 4) | (offset << 20));
      last = offset;
    }
    if (sriov === undefined) return;
    const others = capabilities.map(({ offset }) => offset);
    const problem = sriovProblem(sriov.source, others);
    if (problem !== undefined) {
      note(this.#name, 'sriov', `no virtual functions: ${problem}`);
      return;
    }
    const at = sriov.source.capabilityAt;
    this.#hasSriov = true;
    this.#hide(at, at + PCI_EXT_CAP_SRIOV_SIZEOF);
    addSriovRegisters(this.space, sriov);
    if (at !== PCI_CFG_SPACE_SIZE) this.space.set(last, 4, this.space.read(last, 4) | (at << 20));
  }
}

function reasonToHide(id: number, plan: ShadowPlan): string | undefined {
  if (id === PCI_CAP_ID_MSI && plan.msiVectors === 0) return 'MSI: the provider signals no MSI vectors';
  if (id === PCI_CAP_ID_MSIX && plan.msixVectors === 0) return 'MSI-X: no vectors, or no table in a BAR';
  return hiddenReason(id);
}
