import type { EventTask } from '../../sys/event-task.js';
import { signalEventfd } from '../../sys/eventfd.js';
import type { Fd } from '../../sys/fd.js';
import { trace } from '../../sys/trace.js';
import type { OpenDevice, VfioDeviceOps } from '../../vfio/driver.js';
import {
  type DeviceInfo,
  type IrqInfo,
  type IrqSet,
  type RegionInfo,
  type RegionIoEventFd,
  VFIO_DEVICE_FLAGS_PCI,
  VFIO_DEVICE_FLAGS_RESET,
  VFIO_PCI_BAR0_REGION_INDEX,
  VFIO_PCI_CONFIG_REGION_INDEX,
  VFIO_PCI_NUM_IRQS,
  VFIO_PCI_NUM_REGIONS,
  VFIO_REGION_INFO_FLAG_READ,
  VFIO_REGION_INFO_FLAG_WRITE,
} from '../../vfio/uapi.js';
import { DeviceInterrupts, irqInfo } from '../mdev/device-interrupts.js';
import { allOnes } from '../pci/config-space.js';
import { PCI_CFG_SPACE_SIZE, PCI_COMMAND_MEMORY, PCI_MSIX_ENTRY_SIZE } from '../pci/pci-regs.js';
import { CommonConfig } from './common-config.js';
import {
  COMMON_AT,
  DEVICE_AT,
  ISR_AT,
  MSIX_BAR,
  MSIX_BAR_BYTES,
  NOTIFY_AT,
  NOTIFY_OFF_MULTIPLIER,
  REGISTER_BAR,
  REGISTER_BAR_BYTES,
  STRUCTURE_BYTES,
  VirtioConfigSpace,
} from './config-space.js';
import type { QueueCommand, QueueNotice } from './messages.js';
import { NetConfig, OFFERED_FEATURES } from './net-config.js';
import { SharedState, type SharedStateBuffer } from './shared-state.js';
import { MSIX_VECTORS } from './spec.js';

const MSIX_REGION = VFIO_PCI_BAR0_REGION_INDEX + MSIX_BAR;
const REGISTER_REGION = VFIO_PCI_BAR0_REGION_INDEX + REGISTER_BAR;

/** Regions that there are, and their bytes. */
const REGION_BYTES: ReadonlyMap<number, number> = new Map([
  [MSIX_REGION, MSIX_BAR_BYTES],
  [REGISTER_REGION, REGISTER_BAR_BYTES],
  [VFIO_PCI_CONFIG_REGION_INDEX, PCI_CFG_SPACE_SIZE],
]);

/** What a device is made of; whoever creates it owns these, and keeps them until it is no longer registered. */
export interface VirtioNetParts {
  readonly shared: SharedStateBuffer;
  /** The queue task, whose port is open. */
  readonly task: EventTask;
  /** Eventfd per queue. */
  readonly doorbells: readonly Fd[];
  /** 6 bytes. */
  readonly mac: Uint8Array;
  readonly mtu: number;
}

/** The registers of a virtio-net PCI function, shown as vfio-pci would show it. Machine thread only. */
export class VirtioNetDevice implements VfioDeviceOps {
  readonly name = 'virtio-net';
  readonly #state: SharedState;
  readonly #task: EventTask;
  readonly #doorbells: readonly Fd[];
  readonly #common: CommonConfig;
  readonly #net: NetConfig;
  readonly #interrupts: DeviceInterrupts;
  #config: VirtioConfigSpace;

  constructor({ shared, task, doorbells, mac, mtu }: VirtioNetParts) {
    this.#state = new SharedState(shared);
    this.#task = task;
    this.#doorbells = doorbells;
    this.#net = new NetConfig(mac, mtu, this.#state);
    this.#common = new CommonConfig(
      OFFERED_FEATURES,
      this.#state,
      { start: (queues) => this.#call({ kind: 'start', queues }), stop: () => this.#call({ kind: 'stop' }) },
      (what) => this.#misuse(what),
    );
    this.#interrupts = new DeviceInterrupts(this.name, MSIX_VECTORS, {
      retarget: (targets) => this.#call({ kind: 'interrupts', targets }),
      maskIntx: (isMasked) => this.#call({ kind: 'maskIntx', isMasked }),
    });
    this.#config = this.#newConfig();
    task.receive = (message) => this.#hear(message as QueueNotice);
  }

  openDevice({ dma }: OpenDevice): void {
    this.#config = this.#newConfig();
    this.#state.command = this.#config.command;
    this.#call({ kind: 'attach', table: dma.table });
    this.#common.reset();
  }

  closeDevice(): void {
    this.#common.reset();
    this.#interrupts[Symbol.dispose]();
    this.#call({ kind: 'detach' });
  }

  getInfo(): DeviceInfo {
    return {
      flags: VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET,
      numRegions: VFIO_PCI_NUM_REGIONS,
      numIrqs: VFIO_PCI_NUM_IRQS,
    };
  }

  getRegionInfo(index: number): Omit<RegionInfo, 'offset'> {
    const size = REGION_BYTES.get(index) ?? 0;
    const flags = size === 0 ? 0 : VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
    return { index, flags, size, capabilities: [] };
  }

  getRegionIoFds(index: number): readonly RegionIoEventFd[] {
    if (index !== REGISTER_REGION) return [];
    return this.#doorbells.map((doorbell, queue) => ({
      offset: NOTIFY_AT + NOTIFY_OFF_MULTIPLIER * queue,
      size: NOTIFY_OFF_MULTIPLIER,
      fd: doorbell.number,
    }));
  }

  getIrqInfo(index: number): IrqInfo {
    return irqInfo(index, MSIX_VECTORS);
  }

  setIrqs(set: IrqSet): void {
    this.#interrupts.set(set);
  }

  /** Resets the virtio device; configuration space and eventfds stay, as vfio-pci restores them. */
  reset(): void {
    this.#common.reset();
  }

  request(): void {
    this.#interrupts.request();
  }

  read(index: number, offset: number, data: Uint8Array): number {
    if (index === VFIO_PCI_CONFIG_REGION_INDEX) {
      const { isMsixEnabled } = this.#interrupts;
      this.#config.read(offset, data, {
        isMsixEnabled,
        isIntxPending: !isMsixEnabled && this.#state.isr !== 0,
      });
    } else {
      this.#readBar(index, offset, data);
    }
    return data.length;
  }

  write(index: number, offset: number, data: Uint8Array): number {
    if (index === VFIO_PCI_CONFIG_REGION_INDEX) {
      this.#config.write(offset, data);
      this.#followCommand();
    } else if (index === REGISTER_REGION && this.#decodesMemory('write')) {
      this.#writeRegisters(offset, data);
    }
    // The MSI-X table is not the user's to write: VFIO_DEVICE_SET_IRQS is.
    return data.length;
  }

  #newConfig(): VirtioConfigSpace {
    const window = {
      read: (offset: number, data: Uint8Array) => this.#readBar(REGISTER_REGION, offset, data),
      write: (offset: number, data: Uint8Array) => this.#writeRegisters(offset, data),
    };
    return new VirtioConfigSpace(window, (what) => this.#misuse(what));
  }

  /** Bus mastering and INTx disable take effect before the write returns. */
  #followCommand(): void {
    const { command } = this.#config;
    if (command === this.#state.command) return;
    this.#state.command = command;
    this.#call({ kind: 'command' });
  }

  #decodesMemory(what: string): boolean {
    if ((this.#config.command & PCI_COMMAND_MEMORY) !== 0) return true;
    this.#misuse(`${what} of a BAR while memory decoding is off`);
    return false;
  }

  #readBar(index: number, offset: number, data: Uint8Array): void {
    data.fill(0xff);
    if (!this.#decodesMemory('read')) return;
    if (index === MSIX_REGION) {
      // As with vfio-pci: the table reads all-ones, and of the rest only the pending bits mean something (none is).
      const table = MSIX_VECTORS * PCI_MSIX_ENTRY_SIZE;
      data.fill(0, Math.min(data.length, Math.max(0, table - offset)));
    } else if (index === REGISTER_REGION) {
      eachAccess(offset, data.length, (at, bytes, i) => {
        let value = this.#readRegister(at, bytes);
        for (let byte = 0; byte < bytes; byte++, value >>>= 8) data[i + byte] = value & 0xff;
      });
    }
  }

  #readRegister(at: number, bytes: number): number {
    const offset = at % STRUCTURE_BYTES;
    switch (at - offset) {
      case COMMON_AT:
        return this.#common.read(offset, bytes);
      case ISR_AT:
        return offset === 0 ? this.#state.takeIsr() : allOnes(bytes);
      case DEVICE_AT:
        return this.#net.read(offset, bytes);
      default:
        return allOnes(bytes);
    }
  }

  #writeRegisters(offset: number, data: Uint8Array): void {
    eachAccess(offset, data.length, (at, bytes, i) => {
      let value = 0;
      for (let byte = bytes - 1; byte >= 0; byte--) value = value * 256 + (data[i + byte] as number);
      this.#writeRegister(at, bytes, value);
    });
  }

  #writeRegister(at: number, bytes: number, value: number): void {
    const offset = at % STRUCTURE_BYTES;
    switch (at - offset) {
      case COMMON_AT:
        this.#common.write(offset, bytes, value);
        break;
      case NOTIFY_AT: {
        const doorbell = this.#doorbells[Math.floor(offset / NOTIFY_OFF_MULTIPLIER)];
        if (doorbell !== undefined) signalEventfd(doorbell.number);
        else this.#misuse(`doorbell at 0x${offset.toString(16)}`);
        break;
      }
      default:
        this.#misuse(`write of ${bytes} bytes to read-only register 0x${at.toString(16)}`);
    }
  }

  #call(command: QueueCommand): void {
    this.#task.call(command);
  }

  #hear(notice: QueueNotice): void {
    if (notice.kind === 'misuse') this.#misuse(`queue ${notice.queue}: ${notice.what}`);
    else if (trace.vfio.hasSubscribers)
      trace.vfio.publish({
        what: 'link down',
        device: this.name,
        text: `its link is down: ${notice.error}`,
      });
  }

  #misuse(text: string): void {
    if (trace.guestMisuse.hasSubscribers)
      trace.guestMisuse.publish({ device: this.name, what: 'virtio', text });
  }
}

/** Splits an access as the kernel does for a user's read or write: naturally aligned 4, 2 and 1 bytes. */
function eachAccess(
  offset: number,
  length: number,
  access: (at: number, bytes: number, index: number) => void,
): void {
  for (let i = 0; i < length; ) {
    const at = offset + i;
    const left = length - i;
    const bytes = at % 4 === 0 && left >= 4 ? 4 : at % 2 === 0 && left >= 2 ? 2 : 1;
    access(at, bytes, i);
    i += bytes;
  }
}
