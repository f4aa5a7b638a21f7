import { writeSync } from 'node:fs';
import { drainEventfd, isReadable, signalEventfd } from '../../../sys/eventfd.js';
import { Fd } from '../../../sys/fd.js';
import { InlineEventThread } from '../../../sys/inline-event-thread.js';
import { Scope } from '../../../sys/scope.js';
import {
  type NetBackend,
  type NetCounters,
  type NetOffloads,
  type NetPort,
  responder,
  tap,
} from '../../net/index.js';
import { createVirtioNetDriver, type VirtioNetInstance } from '../driver.js';
import { createQueueTask } from '../queue-task.js';
import { GuestDriver, GuestMemory } from './guest.js';

const TRIGGER_EVENTFD = (1 << 2) | (1 << 5);
const UUID = 'f1d2c0de-0000-4000-8000-000000000001';

/** A port whose frames the test gives and takes; its fd is an eventfd that the test signals. */
export class FakePort implements NetPort {
  readonly sent: Uint8Array[] = [];
  readonly waiting: Uint8Array[] = [];
  readonly eventfd = Fd.eventfd('fake port');
  /** As a tap, it cannot say how long the next frame is. */
  isBlind = false;
  failure: Error | undefined;
  /** As the device has set it, of a pair other than the first. */
  isActive = false;
  /** Whether the host refuses to activate it. */
  isRefused = false;
  /** As a tap's: frames have headers, both ways. What the guest takes over is the latest of `accepted`. */
  readonly offloads?: NetOffloads;
  readonly accepted: number[] = [];
  /** As a socket, it can be full; its eventfd is writable when it is not. */
  readonly #room = Fd.eventfd('room in fake port');
  counters: NetCounters = { txFrames: 0, txBytes: 0, txDropped: 0, rxFrames: 0, rxBytes: 0, rxDropped: 0 };

  /** @param offered offloads that it has; without them, its frames are bare */
  constructor(offered?: number) {
    if (offered === undefined) return;
    this.offloads = { offered, accept: (offloads) => this.accepted.push(offloads) };
  }

  get fd(): number {
    return this.eventfd.number;
  }

  /** A frame has arrived. */
  signal(): void {
    signalEventfd(this.eventfd.number);
  }

  get writableFd(): number {
    return this.#room.number;
  }

  /** Whether the eventfd's counter, which is then at its largest, has no room for one more. */
  get isFull(): boolean {
    return isReadable(this.#room.number);
  }

  set isFull(value: boolean) {
    drainEventfd(this.#room.number);
    if (value) writeSync(this.#room.number, new Uint8Array(new BigUint64Array([2n ** 64n - 2n]).buffer));
  }

  setActive(isActive: boolean): boolean {
    if (isActive && this.isRefused) return false;
    this.isActive = isActive;
    return true;
  }

  transmit(parts: readonly Uint8Array[]): boolean {
    this.sent.push(Uint8Array.from(parts.flatMap((part) => [...part])));
    return true;
  }

  pending(): number {
    if (this.isBlind) return -1;
    const [frame] = this.waiting;
    if (frame === undefined) drainEventfd(this.eventfd.number);
    return frame?.length ?? 0;
  }

  receive(parts: readonly Uint8Array[]): number {
    if (this.failure !== undefined) throw this.failure;
    const frame = this.waiting.shift();
    if (frame === undefined) {
      drainEventfd(this.eventfd.number);
      return 0;
    }
    let copied = 0;
    for (const part of parts) {
      const piece = frame.subarray(copied, copied + part.length);
      part.set(piece);
      copied += piece.length;
    }
    return copied === frame.length ? copied : -1;
  }

  [Symbol.dispose](): void {
    this.eventfd[Symbol.dispose]();
    this.#room[Symbol.dispose]();
  }
}

/** A device in the hands of a test: open, with memory, a driver, and eventfds behind its interrupts. */
export class Workbench implements Disposable {
  readonly #scope: Scope;
  readonly thread: InlineEventThread;
  readonly instance: VirtioNetInstance;
  readonly memory: GuestMemory;
  readonly driver: GuestDriver;
  /** Of the latest create; only with `net=fake`. */
  port!: FakePort;
  /** One for each queue pair. */
  readonly ports: FakePort[] = [];

  /**
   * @param options as on the command line; by default `net=fake`, whose address is a set of offloads to have
   * @param more back-ends beside the usual ones
   * @param memory of a guest that another device has had until now; its own if absent
   */
  constructor(
    options: Readonly<Record<string, string>> = {},
    more: readonly NetBackend[] = [],
    memory?: GuestMemory,
  ) {
    const open = (offered: string) => {
      this.port = new FakePort(offered === '' ? undefined : Number(offered));
      this.ports.push(this.port);
      return this.port;
    };
    const fake: NetBackend = { name: 'fake', validate: () => undefined, open, openPair: open };
    using scope = new Scope();
    const backends = [fake, responder, tap, ...more];
    const task = new URL('test:queue-task');
    this.thread = scope.own(new InlineEventThread(new Map([[task.href, createQueueTask(backends)]])));
    this.memory = memory ?? scope.own(new GuestMemory());
    const driver = createVirtioNetDriver({ backends, task });
    this.instance = scope.own(driver.create(driver.types[0]!, UUID, options, { eventThread: this.thread }));
    this.instance.ops.openDevice(this.memory.open);
    scope.defer(() => this.instance.ops.closeDevice());
    this.driver = new GuestDriver(this.instance.ops, this.memory);
    this.#scope = scope.move();
  }

  /** Eventfds behind all interrupts of an index, until the test's end. */
  wire(index: number, count: number): Fd[] {
    const fds = Array.from({ length: count }, (_, i) => this.#scope.own(Fd.eventfd(`irq ${i}`)));
    const data = fds.map((fd) => fd.number);
    this.instance.ops.setIrqs({ index, flags: TRIGGER_EVENTFD, start: 0, count, data });
    return fds;
  }

  own<T extends Disposable>(resource: T): T {
    return this.#scope.own(resource);
  }

  [Symbol.dispose](): void {
    this.#scope[Symbol.dispose]();
  }
}

/** Takes an eventfd's signals: how many came since the last call. */
export const taken = (fd: Fd): number => (isReadable(fd.number) ? Number(drainEventfd(fd.number)) : 0);
