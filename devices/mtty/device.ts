import type { EventTask } from '../../sys/event-task.js';
import { trace } from '../../sys/trace.js';
import type { MigrationOps, VfioDeviceOps } from '../../vfio/driver.js';
import {
  type DeviceInfo,
  type IrqInfo,
  type IrqSet,
  type RegionInfo,
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
import { IntxPin, type IntxPinBuffer } from '../mdev/intx-pin.js';
import type { ConfigSpace } from '../pci/config-space.js';
import {
  PCI_CFG_SPACE_SIZE,
  PCI_COMMAND,
  PCI_COMMAND_INTX_DISABLE,
  PCI_COMMAND_IO,
  PCI_STATUS,
  PCI_STATUS_INTERRUPT,
} from '../pci/pci-regs.js';
import { UART_PORTS, Uart16550 } from '../uart-16550.js';
import { createMttyConfig } from './config-space.js';
import type { LineBuffers, LineCommand, LineNotice } from './messages.js';
import { MttyMigration } from './migration.js';
import { ChannelLine, createLoopedPort } from './port.js';

/** What a card is made of; whoever creates it owns these. */
export interface MttyParts {
  /** `mtty-2` */
  readonly name: string;
  readonly pin: IntxPinBuffer;
  /** By port; undefined for one that is looped back. */
  readonly lines: readonly (LineBuffers | undefined)[];
  readonly task: EventTask;
  /** Wakes the task. */
  readonly ring: () => void;
}

/** A PCI card with serial ports: their registers, and the one pin they share. Machine thread only. */
export class MttyDevice implements VfioDeviceOps {
  readonly name: string;
  readonly migration: MigrationOps;
  readonly #migration: MttyMigration;
  readonly #pin: IntxPin;
  readonly #interrupts: DeviceInterrupts;
  readonly #ports: readonly Uart16550[];
  readonly #lines: readonly (ChannelLine | undefined)[];
  /** Which ports want an interrupt, a bit each. */
  #wanting = 0;
  #isOpen = false;
  #config: ConfigSpace;

  constructor({ name, pin, lines, task, ring }: MttyParts) {
    this.name = name;
    this.#pin = new IntxPin(pin);
    this.#lines = lines.map((buffers) => buffers && new ChannelLine(buffers, ring));
    this.#ports = this.#lines.map((line, i) => {
      const raise = (level: boolean) => this.#raise(i, level);
      const portName = `${name} port ${i}`;
      return line === undefined
        ? createLoopedPort(portName, raise)
        : new Uart16550(portName, { line, raise });
    });
    this.#interrupts = new DeviceInterrupts(name, 0, {
      retarget: ({ intx, unmask }) => {
        this.#pin.fd = intx ?? -1;
        if (intx === undefined) this.#pin.isMasked = false;
        task.call({ kind: 'unmaskBy', fd: unmask } satisfies LineCommand);
      },
      maskIntx: (isMasked) => {
        this.#pin.isMasked = isMasked;
      },
    });
    this.#migration = new MttyMigration(name, this.#ports, {
      stop: () => this.#stop(),
      start: () => this.#start(),
    });
    this.migration = this.#migration;
    this.#config = createMttyConfig(this.#ports.length);
    this.#stop();
    task.receive = (message) => this.#hear(message as LineNotice);
  }

  openDevice(): void {
    this.#config = createMttyConfig(this.#ports.length);
    this.#pin.isDisabled = false;
    this.#isOpen = true;
    for (const line of this.#lines) line?.dropReceived();
    this.#start();
    this.reset();
  }

  closeDevice(): void {
    this.#isOpen = false;
    this.reset();
    this.#stop();
    this.#interrupts[Symbol.dispose]();
  }

  getInfo(): DeviceInfo {
    return {
      flags: VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET,
      numRegions: VFIO_PCI_NUM_REGIONS,
      numIrqs: VFIO_PCI_NUM_IRQS,
    };
  }

  getRegionInfo(index: number): Omit<RegionInfo, 'offset'> {
    const isConfig = index === VFIO_PCI_CONFIG_REGION_INDEX;
    const size = isConfig ? PCI_CFG_SPACE_SIZE : this.#portAt(index) === undefined ? 0 : UART_PORTS;
    const flags = size === 0 ? 0 : VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
    return { index, flags, size, capabilities: [] };
  }

  getIrqInfo(index: number): IrqInfo {
    return irqInfo(index, 0);
  }

  setIrqs(set: IrqSet): void {
    this.#interrupts.set(set);
  }

  /** Ports as after power-on; configuration space and eventfds stay, as vfio-pci restores them. */
  reset(): void {
    this.#migration.reset();
    for (const port of this.#ports) port.reset();
  }

  request(): void {
    this.#interrupts.request();
  }

  read(index: number, offset: number, data: Uint8Array): number {
    if (index === VFIO_PCI_CONFIG_REGION_INDEX) {
      this.#config.set(PCI_STATUS, 2, this.#pin.isAsserted ? PCI_STATUS_INTERRUPT : 0);
      this.#config.readBytes(offset, data);
      return data.length;
    }
    data.fill(0xff);
    if (this.#decodesIo('read')) this.#portAt(index)?.read(offset, data);
    return data.length;
  }

  write(index: number, offset: number, data: Uint8Array): number {
    if (index === VFIO_PCI_CONFIG_REGION_INDEX) {
      this.#config.writeBytes(offset, data);
      this.#pin.isDisabled = (this.#command & PCI_COMMAND_INTX_DISABLE) !== 0;
    } else if (this.#decodesIo('write')) {
      this.#portAt(index)?.write(offset, data);
    }
    return data.length;
  }

  get #command(): number {
    return this.#config.read(PCI_COMMAND, 2);
  }

  #portAt(region: number): Uart16550 | undefined {
    return this.#ports[region - VFIO_PCI_BAR0_REGION_INDEX];
  }

  #decodesIo(what: string): boolean {
    if ((this.#command & PCI_COMMAND_IO) !== 0) return true;
    if (trace.guestMisuse.hasSubscribers) {
      trace.guestMisuse.publish({
        device: this.name,
        what: 'io',
        text: `${what} of a port while I/O decoding is off`,
      });
    }
    return false;
  }

  #raise(port: number, level: boolean): void {
    this.#wanting = level ? this.#wanting | (1 << port) : this.#wanting & ~(1 << port);
    this.#pin.isAsserted = this.#wanting !== 0;
  }

  #stop(): void {
    this.#pin.isHeld = true;
    for (const port of this.#ports) port.pause();
  }

  #start(): void {
    for (const port of this.#ports) port.resume();
    this.#pin.isHeld = false;
  }

  #hear({ text }: LineNotice): void {
    if (text !== undefined && trace.vfio.hasSubscribers)
      trace.vfio.publish({ what: 'line', device: this.name, text });
    if (this.#isOpen) for (const port of this.#ports) port.update();
  }
}
