/** The saved state of an assigned function: what its guest has set up in it. */
import {
  PCI_CACHE_LINE_SIZE,
  PCI_CAP_ID_EXP,
  PCI_CAP_ID_PM,
  PCI_EXP_DEVCTL,
  PCI_EXP_DEVCTL_BCR_FLR,
  PCI_EXP_DEVCTL2,
  PCI_EXP_FLAGS,
  PCI_EXP_FLAGS_VERS,
  PCI_LATENCY_TIMER,
  PCI_PM_CTRL,
  PCI_PM_CTRL_PME_ENABLE,
  PCI_PM_CTRL_STATE_MASK,
  PCI_REVISION_ID,
  PCI_SUBSYSTEM_VENDOR_ID,
  PCI_VENDOR_ID,
} from '../pci/pci-regs.js';

/** The state, decoded. */
export interface FunctionState {
  /** Configuration space, as the guest reads it. */
  readonly config: Uint8Array;
  /** The MSI-X table; empty without one. */
  readonly table: Uint8Array;
  /** Vectors of the mode in use with a pending interrupt. */
  readonly pending: readonly number[];
}

/*
 * u32 length of config, u32 length of the table, u32 number of pending vectors, config, table, u32 for each pending vector
 */
const HEAD_BYTES = 12;
/** MSI-X has no more. */
const MOST_VECTORS = 2048;

export function encodeFunction({ config, table, pending }: FunctionState): Uint8Array {
  const head = Uint32Array.of(config.length, table.length, pending.length);
  return Buffer.concat([
    new Uint8Array(head.buffer),
    config,
    table,
    new Uint8Array(Uint32Array.from(pending).buffer),
  ]);
}

/**
 * @param now the function that is to take it over
 * @throws RangeError for what is no state, or of a function of another kind
 */
export function decodeFunction(data: Uint8Array, now: Omit<FunctionState, 'pending'>): FunctionState {
  if (data.length < HEAD_BYTES) throw new RangeError(`${data.length} bytes are no function's state`);
  const view = new DataView(data.buffer, data.byteOffset, data.length);
  const [configBytes, tableBytes, count] = [0, 4, 8].map((at) => view.getUint32(at, true)) as [
    number,
    number,
    number,
  ];
  if (configBytes !== now.config.length)
    throw new RangeError(
      `its configuration space has ${configBytes} bytes, and this one ${now.config.length}`,
    );
  if (tableBytes !== now.table.length)
    throw new RangeError(`its MSI-X table has ${tableBytes} bytes, and this one ${now.table.length}`);
  const tableAt = HEAD_BYTES + configBytes;
  const pendingAt = tableAt + tableBytes;
  if (count > MOST_VECTORS || data.length !== pendingAt + 4 * count)
    throw new RangeError(`${data.length} bytes for ${count} pending vectors`);
  const config = data.subarray(HEAD_BYTES, tableAt);
  checkIdentity(config, now.config);
  const pending = Array.from({ length: count }, (_, i) => view.getUint32(pendingAt + 4 * i, true));
  const wrong = pending.find((vector) => vector >= MOST_VECTORS);
  if (wrong !== undefined) throw new RangeError(`there is no vector ${wrong}`);
  return { config, table: data.subarray(tableAt, pendingAt), pending };
}

/** The registers that say what a function is. */
const IDENTITY = [
  ['vendor and device', PCI_VENDOR_ID],
  ['class and revision', PCI_REVISION_ID],
  ['subsystem', PCI_SUBSYSTEM_VENDOR_ID],
] as const;

function checkIdentity(saved: Uint8Array, now: Uint8Array): void {
  for (const [name, at] of IDENTITY) {
    const [was, is] = [register(saved, at, 4), register(now, at, 4)];
    if (was !== is)
      throw new RangeError(`its ${name} is 0x${was.toString(16)}, and this one's 0x${is.toString(16)}`);
  }
}

export function register(config: Uint8Array, at: number, bytes: 1 | 2 | 4): number {
  const view = new DataView(config.buffer, config.byteOffset, config.length);
  if (bytes === 4) return view.getUint32(at, true);
  return bytes === 2 ? view.getUint16(at, true) : view.getUint8(at);
}

/** A register of the device's own that a guest sets up, and that its migration does not bring back. */
export interface RestoredRegister {
  readonly at: number;
  readonly bytes: 1 | 2;
  /** Bits that are taken over. */
  readonly mask: number;
}

/**
 * The standard registers of that kind, in the order in which they are written: the power state last, as a device that sleeps
 * need not take the others. Bits that start something (a reset) or are cleared by writing 1 are not among them.
 * @param find the offset of a visible capability
 */
export function restoredRegisters(
  find: (id: number) => number | undefined,
  config: Uint8Array,
): readonly RestoredRegister[] {
  const registers: RestoredRegister[] = [
    { at: PCI_CACHE_LINE_SIZE, bytes: 1, mask: 0xff },
    { at: PCI_LATENCY_TIMER, bytes: 1, mask: 0xff },
  ];
  const express = find(PCI_CAP_ID_EXP);
  if (express !== undefined) {
    registers.push({ at: express + PCI_EXP_DEVCTL, bytes: 2, mask: 0xffff & ~PCI_EXP_DEVCTL_BCR_FLR });
    if ((register(config, express + PCI_EXP_FLAGS, 2) & PCI_EXP_FLAGS_VERS) >= 2)
      registers.push({ at: express + PCI_EXP_DEVCTL2, bytes: 2, mask: 0xffff });
  }
  const power = find(PCI_CAP_ID_PM);
  if (power !== undefined)
    registers.push({
      at: power + PCI_PM_CTRL,
      bytes: 2,
      mask: PCI_PM_CTRL_STATE_MASK | PCI_PM_CTRL_PME_ENABLE,
    });
  return registers;
}
