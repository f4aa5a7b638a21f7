import { Fd } from '../../../sys/fd.js';
import { InlineEventThread } from '../../../sys/inline-event-thread.js';
import { Scope } from '../../../sys/scope.js';
import type { MdevInstance, OpenDevice, VendorDriver, VfioDeviceOps } from '../../../vfio/driver.js';
import {
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_ACTION_UNMASK,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_PCI_INTX_IRQ_INDEX,
} from '../../../vfio/uapi.js';
import { createMttyDriver } from '../driver.js';
import { start } from '../line-task.js';

const TASK = new URL('test:line-task');
const UUID = 'f1d2c0de-0000-4000-8000-000000000002';
const NO_OPEN = {} as OpenDevice; // a card without DMA never looks into it

/** An open card in the hands of a test, with eventfds behind its pin. */
export class Card implements Disposable {
  readonly thread: InlineEventThread;
  readonly driver: VendorDriver;
  readonly instance: MdevInstance;
  readonly ops: VfioDeviceOps;
  readonly irq: Fd;
  readonly unmask: Fd;
  readonly #scope: Scope;

  constructor(options: Readonly<Record<string, string>> = {}, type = 'mtty-2') {
    using scope = new Scope();
    this.thread = scope.own(new InlineEventThread(new Map([[TASK.href, start]])));
    this.driver = createMttyDriver(TASK);
    const mdevType = this.driver.types.find(({ name }) => name === type);
    if (mdevType === undefined) throw new Error(`no type ${type}`);
    this.instance = scope.own(this.driver.create(mdevType, UUID, options, { eventThread: this.thread }));
    this.ops = this.instance.ops;
    this.irq = scope.own(Fd.eventfd('irq'));
    this.unmask = scope.own(Fd.eventfd('unmask'));
    this.ops.openDevice(NO_OPEN);
    scope.defer(() => this.ops.closeDevice());
    this.#setIrq(VFIO_IRQ_SET_ACTION_TRIGGER, this.irq.number);
    this.#setIrq(VFIO_IRQ_SET_ACTION_UNMASK, this.unmask.number);
    this.#scope = scope.move();
  }

  #setIrq(action: number, fd: number): void {
    const flags = VFIO_IRQ_SET_DATA_EVENTFD | action;
    this.ops.setIrqs({ index: VFIO_PCI_INTX_IRQ_INDEX, flags, start: 0, count: 1, data: [fd] });
  }

  inb(port: number, register: number): number {
    const data = new Uint8Array(1);
    this.ops.read(port, register, data);
    return data[0] as number;
  }

  outb(port: number, register: number, value: number): void {
    this.ops.write(port, register, Uint8Array.of(value));
  }

  /** Configuration space, little-endian. */
  config(offset: number, bytes: number): number {
    const data = new Uint8Array(bytes);
    this.ops.read(7, offset, data);
    return data.reduceRight((value, byte) => value * 256 + byte, 0);
  }

  setConfig(offset: number, bytes: number, value: number): void {
    this.ops.write(
      7,
      offset,
      Uint8Array.from({ length: bytes }, (_, i) => (value >>> (8 * i)) & 0xff),
    );
  }

  /** Reads all that a port has. */
  drain(port: number): number[] {
    const got: number[] = [];
    while ((this.inb(port, 5) & 1) !== 0) got.push(this.inb(port, 0));
    return got;
  }

  /** Sends as a driver does: 16 bytes whenever the transmitter is empty. Returns how many it could. */
  send(port: number, bytes: Uint8Array): number {
    let sent = 0;
    for (; sent < bytes.length && (this.inb(port, 5) & 0x20) !== 0; sent += 16)
      for (const byte of bytes.subarray(sent, sent + 16)) this.outb(port, 0, byte);
    return Math.min(sent, bytes.length);
  }

  [Symbol.dispose](): void {
    this.#scope[Symbol.dispose]();
  }
}
