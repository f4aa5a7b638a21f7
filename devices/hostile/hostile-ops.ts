import type { Iova } from '../../sys/address.js';
import { sleep } from '../../sys/child.js';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { EventTask } from '../../sys/event-task.js';
import { overlay } from '../../sys/overlay.js';
import { trace } from '../../sys/trace.js';
import type { OpenDevice, VfioDeviceOps } from '../../vfio/driver.js';
import {
  type IrqSet,
  type RegionInfo,
  type RegionIoEventFd,
  VFIO_PCI_CONFIG_REGION_INDEX,
  VFIO_REGION_INFO_FLAG_MMAP,
} from '../../vfio/uapi.js';
import { withoutMmap } from '../mdev/region-info.js';
import { PCI_COMMAND, PCI_COMMAND_IO, PCI_COMMAND_MASTER, PCI_COMMAND_MEMORY } from '../pci/pci-regs.js';
import { flipBit, valueAt } from './bytes.js';
import type { Decision, Decisions } from './decisions.js';
import { HostileDma } from './hostile-dma.js';
import { HostileInterrupts } from './hostile-interrupts.js';
import { CALL, CALLS, type CallName } from './labels.js';
import type { MutationAction } from './mutation-log.js';

const VALUE_ACTIONS = ['flipped', 'flipped', 'all-ones', 'zero', 'stale', 'random', 'edge'] as const;
const WRITE_ACTIONS = ['lost', 'repeated', 'flipped'] as const;
/** What a driver is likely to compare with, or to overflow. */
const EDGES = [1, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff, 0x8000_0000];
const CALL_NAMES: Readonly<Record<CallName, string>> = {
  read: 'pread',
  write: 'pwrite',
  setIrqs: 'VFIO_DEVICE_SET_IRQS',
  reset: 'VFIO_DEVICE_RESET',
};
const FAILURES = [errno.EIO, errno.EBUSY, errno.ENOSPC, errno.ETIMEDOUT];
const MOST_DELAY_US = 500;
/** The longest access that is a register's, of which a value is kept. */
const REGISTER_BYTES = 4;

/** Functions of a device that a guest cannot rely on. Machine thread only. */
export class HostileOps {
  /** The device's functions, mutated. */
  readonly ops: VfioDeviceOps;
  readonly #device: VfioDeviceOps;
  readonly #decisions: Decisions;
  readonly #interrupts: HostileInterrupts | undefined;
  #dma: HostileDma | undefined;
  #isActive = false;
  /** Mutations that have been traced. */
  #traced = 0;

  /** @param task the interrupt task; undefined to leave interrupts alone */
  constructor(device: VfioDeviceOps, decisions: Decisions, task: EventTask | undefined) {
    this.#device = device;
    this.#decisions = decisions;
    this.#interrupts = task && new HostileInterrupts(task);
    const own: Partial<VfioDeviceOps> = {
      openDevice: (open) => this.#open(open),
      closeDevice: () => this.#close(),
      getRegionInfo: (index) => this.#regionInfo(index),
      setIrqs: (set) => this.#setIrqs(set),
      read: (index, offset, data) => this.#read(index, offset, data),
      write: (index, offset, data) => this.#write(index, offset, data),
      ...(device.getRegionIoFds && { getRegionIoFds: (index: number) => this.#ioFds(index) }),
      ...(device.reset && { reset: () => this.#reset() }),
      dmaUnmap: (at: Iova, bytes: bigint) => {
        this.#dma?.unmap(at, bytes);
        device.dmaUnmap?.(at, bytes);
      },
    };
    this.ops = overlay(device, own);
  }

  #open(open: OpenDevice): void {
    this.#isActive = this.#decisions.options.isEarly;
    const isHostile = this.#decisions.has('dma');
    this.#dma = isHostile ? new HostileDma(open.dma, this.#decisions, () => this.#isActive) : undefined;
    this.#device.openDevice(this.#dma === undefined ? open : { ...open, dma: this.#dma });
  }

  #close(): void {
    this.#isActive = false;
    try {
      this.#device.closeDevice();
    } finally {
      this.#interrupts?.[Symbol.dispose]();
      this.#dma = undefined;
      this.#trace();
    }
  }

  /** Whether accesses to a region must reach this object. */
  #isTrapped(index: number): boolean {
    const kinds = ['value', 'write', 'error', 'delay'] as const;
    return (
      kinds.some((kind) => this.#decisions.has(kind)) &&
      this.#decisions.reaches(index, 0, Number.MAX_SAFE_INTEGER)
    );
  }

  #regionInfo(index: number): Omit<RegionInfo, 'offset'> {
    const info = this.#device.getRegionInfo(index);
    if ((info.flags & VFIO_REGION_INFO_FLAG_MMAP) === 0 || !this.#isTrapped(index)) return info;
    return withoutMmap(info);
  }

  #ioFds(index: number): readonly RegionIoEventFd[] {
    return this.#isTrapped(index) ? [] : (this.#device.getRegionIoFds?.(index) ?? []);
  }

  #setIrqs(set: IrqSet): void {
    this.#maybeFail('setIrqs', set.index, 0, 0);
    if (this.#interrupts === undefined) this.#device.setIrqs(set);
    else this.#interrupts.set(set, (own) => this.#device.setIrqs(own));
  }

  #reset(): void {
    this.#maybeFail('reset', 0, 0, 0);
    this.#device.reset?.();
  }

  #read(index: number, offset: number, data: Uint8Array): number {
    this.#trace();
    if (!this.#isActive || !this.#decisions.reaches(index, offset, data.length))
      return this.#device.read(index, offset, data);
    this.#maybeDelay(index, offset, data.length);
    this.#maybeFail('read', index, offset, data.length);
    const got = this.#device.read(index, offset, data);
    const bytes = data.subarray(0, Math.max(got, 0));
    const isRegister = bytes.length > 0 && bytes.length <= REGISTER_BYTES;
    const value = valueAt(bytes, 0);
    const stale = isRegister ? this.#decisions.exchange(index, offset, bytes.length, value) : value;
    const decision = this.#decisions.decide('value', index, offset, bytes.length);
    if (decision !== undefined && bytes.length > 0) mutateValue(bytes, isRegister ? stale : value, decision);
    return got;
  }

  #write(index: number, offset: number, data: Uint8Array): number {
    this.#trace();
    if (index === VFIO_PCI_CONFIG_REGION_INDEX) this.#hearCommand(offset, data);
    if (!this.#isActive || !this.#decisions.reaches(index, offset, data.length))
      return this.#device.write(index, offset, data);
    this.#maybeDelay(index, offset, data.length);
    this.#maybeFail('write', index, offset, data.length);
    const decision = this.#decisions.decide('write', index, offset, data.length);
    if (decision === undefined || data.length === 0) return this.#device.write(index, offset, data);
    const { dice, log } = decision;
    const action = dice.pick(WRITE_ACTIONS);
    if (action === 'lost') {
      log(action);
      return data.length;
    }
    if (action === 'repeated') {
      log(action);
      this.#device.write(index, offset, data);
      return this.#device.write(index, offset, data);
    }
    const flipped = data.slice();
    const at = flipBit(flipped, dice);
    log(action, valueAt(data, at), valueAt(flipped, at));
    return this.#device.write(index, offset, flipped);
  }

  /** The guest's driver begins to use the device once it decodes, or is a bus master. */
  #hearCommand(offset: number, data: Uint8Array): void {
    const low = data[PCI_COMMAND - offset];
    const bits = PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
    if (low !== undefined && (low & bits) !== 0) this.#isActive = true;
  }

  #maybeDelay(index: number, offset: number, bytes: number): void {
    const decision = this.#decisions.decide('delay', index, offset, bytes);
    if (decision === undefined) return;
    const us = 1 + decision.dice.below(MOST_DELAY_US);
    decision.log('delayed', 0, us);
    sleep(us / 1000);
  }

  #maybeFail(call: CallName, index: number, offset: number, bytes: number): void {
    if (!this.#isActive) return;
    const decision = this.#decisions.decide('error', CALLS.indexOf(call) * CALL + index, offset, bytes);
    if (decision === undefined) return;
    const code = decision.dice.pick(FAILURES);
    decision.log('failed', 0, code);
    const hint = 'the device is hostile on purpose';
    throw new SysError({ call: CALL_NAMES[call], target: this.#device.name, errno: code, hint });
  }

  #trace(): void {
    if (!trace.mutation.hasSubscribers) return;
    const { log } = this.#decisions;
    if (log.count === this.#traced) return;
    for (const mutation of log.since(this.#traced))
      trace.mutation.publish({ device: this.#device.name, ...mutation });
    this.#traced = log.count;
  }
}

function mutateValue(bytes: Uint8Array, stale: number, { dice, log }: Decision): void {
  const before = bytes.slice();
  let action: MutationAction = dice.pick(VALUE_ACTIONS);
  let at = 0;
  const put = (value: number): void => {
    for (let i = 0; i < Math.min(bytes.length, 4); i++) bytes[i] = Math.floor(value / 256 ** i) & 0xff;
  };
  if (action === 'all-ones') bytes.fill(0xff);
  else if (action === 'zero') bytes.fill(0);
  else if (action === 'stale') put(stale);
  else if (action === 'random') for (let i = 0; i < bytes.length; i++) bytes[i] = dice.below(256);
  else if (action === 'edge') put(dice.pick(EDGES));
  // A mutation changes something.
  if (action === 'flipped' || Buffer.compare(before, bytes) === 0) {
    action = 'flipped';
    at = flipBit(bytes, dice);
  }
  log(action, valueAt(before, at), valueAt(bytes, at));
}
