/** What a running machine shows of itself: plain data. */
import type { PciFunctionState, VfioInterface } from '../vfio/assign/index.js';
import type { InputKind, MdevParentState } from '../vfio/driver.js';
import type { TimelineEvent } from '../vfio/timeline.js';
import type { MemoryRegionState } from './assign/memory-map.js';
import type { SlottedDevice } from './assigned-devices.js';
import type { PageUse } from './mapped-pages.js';
import type { DeviceReport } from './protocol.js';

/** An assigned device as it is now. */
export interface DeviceState extends DeviceReport, Partial<PciFunctionState> {
  /** Its PCI device number on bus 0. */
  readonly slot: number;
  /** Its number among the functions of the slot. */
  readonly function: number;
  /** Its address, as its provider resolved it: a PCI address, a UUID, a socket's path. */
  readonly device: string;
  /** Name of its provider: `core`, `host`, `vfio-user`. */
  readonly provider: string;
  /** How it was opened. */
  readonly interface: VfioInterface;
  /** Number of its IOMMU group. */
  readonly group: number;
  /** Name of its cdev; absent if it has none. */
  readonly cdev?: string;
  /** The account of the device that it is a part of, as a vGPU is of a card; absent if it is a part of none. */
  readonly parent?: MdevParentState;
  /** What a person's keys and pointer are sent to, by {@link VirtualMachine.input}; absent for other devices. */
  readonly input?: InputKind;
}

/** A range of the guest's memory: its addresses, what it cost to map, and the pages that the kernel uses. */
export interface MemoryRange extends MemoryRegionState {
  /** Undefined if the kernel does not tell. */
  readonly pages: PageUse | undefined;
}

/** The record of VFIO's operations since the machine started. */
export interface TimelineRecord {
  /** Oldest first; `at` is in milliseconds since the machine began to start. */
  readonly events: readonly TimelineEvent[];
  /** Events left out of the middle: a guest can cause any number. */
  readonly dropped: number;
}

/** Events that {@link TimelineRecord} holds. */
export const MOST_TIMELINE_EVENTS = 4096;

/** Machine thread only: reads the device's counters and the state of its function. */
export function deviceState({ slot, function: number, name, assigned }: SlottedDevice): DeviceState {
  const { device, provider, interface: how } = assigned;
  const state = assigned.function.inspect?.();
  const parent = device.parent?.();
  return {
    slot,
    function: number,
    name,
    device: device.name,
    description: device.description,
    provider,
    interface: how,
    group: device.group,
    ...(device.cdev === undefined ? {} : { cdev: device.cdev }),
    ...(parent === undefined ? {} : { parent }),
    ...(device.inputKind === undefined ? {} : { input: device.inputKind }),
    counters: device.counters?.() ?? {},
    ...(state && { ...state, interrupts: counted(state.interrupts, device.vectorCounts?.() ?? []) }),
  };
}

/** The vectors with their counts. */
function counted(
  interrupts: PciFunctionState['interrupts'],
  counts: readonly number[],
): PciFunctionState['interrupts'] {
  const vectors = interrupts.vectors.map((state) => {
    const sent = counts[state.vector];
    return sent === undefined ? state : { ...state, sent };
  });
  return { ...interrupts, vectors };
}
