import type { EventTask } from '../../sys/event-task.js';
import { trace } from '../../sys/trace.js';
import type { DmaLoggingOps, VfioDeviceOps } from '../../vfio/driver.js';
import type { IrqInfo, IrqSet } from '../../vfio/uapi.js';
import { ChannelLine } from '../line/channel-line.js';
import type { LineBuffers } from '../line/messages.js';
import { DeviceInterrupts, irqInfo } from '../mdev/device-interrupts.js';
import { IntxPin, type IntxPinBuffer } from '../mdev/intx-pin.js';
import { NoDmaLog } from '../mdev/no-dma-log.js';
import { PciRegions } from '../mdev/pci-regions.js';
import { RegionOps } from '../mdev/region-ops.js';
import { StopCopyMigration } from '../mdev/stop-copy-migration.js';
import { PCI_COMMAND_INTX_DISABLE, PCI_STATUS, PCI_STATUS_INTERRUPT } from '../pci/pci-regs.js';
import { UART_PORTS, Uart16550 } from '../uart-16550.js';
import { createMttyConfig } from './config-space.js';
import type { LineCommand, LineNotice } from './messages.js';
import { mttyState } from './migration.js';
import { createLoopedPort } from './port.js';

/** Parts of a card, owned by its creator. */
export interface MttyParts {
  /** Name of the type: `mtty-2`. */
  readonly name: string;
  readonly pin: IntxPinBuffer;
  /** By port; undefined for a port in loopback. */
  readonly lines: readonly (LineBuffers | undefined)[];
  readonly task: EventTask;
  /** Wakes the task. */
  readonly ring: () => void;
}

/** A PCI card with serial ports: their registers, and the pin that they share. Machine thread only. */
export class MttyDevice extends RegionOps implements VfioDeviceOps {
  readonly name: string;
  readonly migration: StopCopyMigration;
  readonly dmaLogging: DmaLoggingOps;
  protected readonly regions: PciRegions;
  readonly #pin: IntxPin;
  readonly #interrupts: DeviceInterrupts;
  readonly #ports: readonly Uart16550[];
  readonly #lines: readonly (ChannelLine | undefined)[];
  /** Ports with a pending interrupt, one bit each. */
  #wanting = 0;
  #isOpen = false;

  constructor({ name, pin, lines, task, ring }: MttyParts) {
    super();
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
    this.#interrupts = new DeviceInterrupts(
      name,
      {},
      {
        retarget: ({ intx, unmask }) => {
          this.#pin.fd = intx ?? -1;
          if (intx === undefined) this.#pin.isMasked = false;
          task.call({ kind: 'unmaskBy', fd: unmask } satisfies LineCommand);
        },
        maskIntx: (isMasked) => {
          this.#pin.isMasked = isMasked;
        },
        isIntxDisabled: () => this.#isIntxDisabled,
      },
    );
    const motion = { stop: () => this.#stop(), start: () => this.#start() };
    this.dmaLogging = new NoDmaLog(name);
    this.migration = new StopCopyMigration(name, mttyState(this.#ports, motion));
    this.regions = new PciRegions(name, {
      config: {
        create: createMttyConfig,
        beforeRead: (space) => space.set(PCI_STATUS, 2, this.#pin.isAsserted ? PCI_STATUS_INTERRUPT : 0),
        afterWrite: () => {
          this.#pin.isDisabled = this.#isIntxDisabled;
        },
      },
      bars: this.#ports.map((port, index) => ({
        index,
        kind: 'io',
        size: UART_PORTS,
        read: (offset, data) => port.read(offset, data),
        write: (offset, data) => port.write(offset, data),
      })),
    });
    this.#stop();
    task.receive = (message) => this.#hear(message as LineNotice);
  }

  get #isIntxDisabled(): boolean {
    return (this.regions.command & PCI_COMMAND_INTX_DISABLE) !== 0;
  }

  openDevice(): void {
    this.regions.resetConfig();
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
    this.dmaLogging.stop();
    this.#interrupts[Symbol.dispose]();
  }

  getIrqInfo(index: number): IrqInfo {
    return irqInfo(index, {});
  }

  setIrqs(set: IrqSet): void {
    this.#interrupts.set(set);
  }

  /** Resets the ports. Configuration space and eventfds remain, because vfio-pci restores them. */
  override reset(): void {
    this.migration.reset();
    for (const port of this.#ports) port.reset();
  }

  request(): void {
    this.#interrupts.request();
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
