import { Fd } from '../../../sys/fd.js';
import { InlineEventThread } from '../../../sys/inline-event-thread.js';
import { Scope } from '../../../sys/scope.js';
import type { VfioDeviceOps } from '../../../vfio/driver.js';
import {
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_PCI_CONFIG_REGION_INDEX,
  VFIO_PCI_MSIX_IRQ_INDEX,
} from '../../../vfio/uapi.js';
import { PCI_COMMAND, PCI_COMMAND_MASTER } from '../../pci/pci-regs.js';
import { GuestMemory } from '../../virtio-net/testing/guest.js';
import { start } from '../card-task.js';
import { createTestCardDriver, type TestCardInstance } from '../driver.js';
import {
  REG_DMA_COMMAND,
  REG_DMA_LENGTH,
  REG_DMA_SOURCE,
  REG_DMA_STATUS,
  REG_DMA_TARGET,
  REG_DMA_VALUE,
  REGISTER_BAR,
} from '../spec.js';

const TASK = new URL('test:card-task');
const UUID = 'f1d2c0de-0000-4000-8000-000000000003';
const CONFIG = VFIO_PCI_CONFIG_REGION_INDEX;

/** A card in the hands of a test: open, a bus master, with memory. */
export class CardBench implements Disposable {
  readonly thread: InlineEventThread;
  readonly instance: TestCardInstance;
  readonly memory: GuestMemory;
  readonly #scope: Scope;

  /** @param options as on the command line */
  constructor(options: Readonly<Record<string, string>> = {}) {
    using scope = new Scope();
    this.thread = scope.own(new InlineEventThread(new Map([[TASK.href, start]])));
    this.memory = scope.own(new GuestMemory());
    const driver = createTestCardDriver(TASK);
    const [type] = driver.types;
    if (type === undefined) throw new Error('no type');
    this.instance = scope.own(driver.create(type, UUID, options, { eventThread: this.thread }));
    this.ops.openDevice(this.memory.open);
    scope.defer(() => this.ops.closeDevice());
    this.setConfig(PCI_COMMAND, 2, this.config(PCI_COMMAND, 2) | PCI_COMMAND_MASTER);
    this.#scope = scope.move();
  }

  get ops(): VfioDeviceOps {
    return this.instance.ops;
  }

  /** Gives the first messages eventfds. */
  enable(count: number, index: number = VFIO_PCI_MSIX_IRQ_INDEX): readonly Fd[] {
    const fds = Array.from({ length: count }, (_, i) => this.#scope.own(Fd.eventfd(`message ${i}`)));
    const flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
    this.ops.setIrqs({ index, flags, start: 0, count, data: fds.map(({ number }) => number) });
    return fds;
  }

  /** A register of BAR 0. */
  in(register: number): number {
    return this.read(REGISTER_BAR, register, 4);
  }

  out(register: number, value: number): void {
    this.write(REGISTER_BAR, register, 4, value);
  }

  read(region: number, offset: number, bytes: number): number {
    const data = new Uint8Array(bytes);
    this.ops.read(region, offset, data);
    return data.reduceRight((value, byte) => value * 256 + byte, 0);
  }

  write(region: number, offset: number, bytes: number, value: number): void {
    const data = Uint8Array.from({ length: bytes }, (_, i) => Math.floor(value / 256 ** i) & 0xff);
    this.ops.write(region, offset, data);
  }

  config(offset: number, bytes: number): number {
    return this.read(CONFIG, offset, bytes);
  }

  setConfig(offset: number, bytes: number, value: number): void {
    this.write(CONFIG, offset, bytes, value);
  }

  /** Offset of a capability; 0 if there is none. */
  capability(id: number): number {
    let at = this.config(0x34, 1);
    for (let i = 0; i < 48 && at !== 0; i++) {
      if (this.config(at, 1) === id) return at;
      at = this.config(at + 1, 1);
    }
    return 0;
  }

  /** Begins a transfer. */
  begin(command: number, { source = 0, target = 0, length = 0, value = 0 }): void {
    for (const [register, address] of [
      [REG_DMA_SOURCE, source],
      [REG_DMA_TARGET, target],
    ] as const) {
      this.out(register, address % 2 ** 32);
      this.out(register + 4, Math.floor(address / 2 ** 32));
    }
    this.out(REG_DMA_LENGTH, length);
    this.out(REG_DMA_VALUE, value);
    this.out(REG_DMA_COMMAND, command);
  }

  /** Performs a transfer. Returns its status. */
  transfer(command: number, parameters: Parameters<CardBench['begin']>[1]): number {
    this.begin(command, parameters);
    this.thread.pump();
    return this.in(REG_DMA_STATUS);
  }

  [Symbol.dispose](): void {
    this.#scope[Symbol.dispose]();
  }
}
