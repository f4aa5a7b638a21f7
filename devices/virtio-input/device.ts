import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { EventTask } from '../../sys/event-task.js';
import type { Fd } from '../../sys/fd.js';
import type { InputEvent } from '../../vfio/driver.js';
import type { RemoteQueue } from '../virtio/remote-queue.js';
import type { TypeState } from '../virtio/saved-state.js';
import { TRANSPORT_FEATURES } from '../virtio/spec.js';
import type { ChainDirection } from '../virtio/split-queue.js';
import { TransportState, type TransportStateBuffer } from '../virtio/transport-state.js';
import { TurnFunction } from '../virtio/turn-function.js';
import { InputConfig } from './input-config.js';
import { type InputKind, type InputKindName, KINDS } from './kinds.js';
import { type InputCounter, SHAPE } from './shared-state.js';
import { EV_LED, EV_SYN, EVENT_BYTES, EVENTQ, MOST_PACKET_EVENTS, SYN_REPORT } from './spec.js';

const VIRTIO_ID_INPUT = 18;

/** Parts of a device, owned by its creator, who keeps them until the device is unregistered. */
export interface VirtioInputParts {
  readonly shared: TransportStateBuffer;
  /** The doorbell task. */
  readonly task: EventTask;
  /** One per queue. */
  readonly doorbells: readonly Fd[];
  readonly kind: InputKindName;
  /** Of the device, as its driver shows it. */
  readonly serial: string;
}

/** A virtio-input PCI function: a keyboard, a tablet or a mouse. Machine thread only. */
export class VirtioInputDevice extends TurnFunction<InputCounter> {
  readonly #kind: InputKind;
  readonly #kindName: InputKindName;
  readonly #config: InputConfig;
  /** What the driver has lit, a bit per LED_. */
  #leds = 0;

  constructor({ shared, task, doorbells, kind, serial }: VirtioInputParts) {
    const config = new InputConfig(KINDS[kind], serial);
    super({
      name: `virtio-input ${kind}`,
      identity: { type: VIRTIO_ID_INPUT, pciClass: KINDS[kind].pciClass },
      features: { offered: TRANSPORT_FEATURES, requirements: [] },
      state: new TransportState(shared, SHAPE, 1),
      task,
      doorbells,
      config,
    });
    this.#kind = KINDS[kind];
    this.#kindName = kind;
    this.#config = config;
  }

  /** Lights of a keyboard that are lit: a bit per LED_, of linux/input-event-codes.h. */
  get leds(): number {
    return this.#leds;
  }

  /**
   * Sends the driver a packet of events, which a SYN_REPORT ends. A driver that is not there, or has fewer buffers than the packet has
   * events, gets none of it.
   * @throws SysError EINVAL for an event that this kind of device does not have
   */
  input(events: readonly InputEvent[]): void {
    const problem = this.#problemOf(events);
    if (problem !== undefined)
      throw new SysError({ call: 'input', target: this.name, errno: errno.EINVAL, hint: problem });
    let isSent = false;
    this.withQueue(EVENTQ, (queue) => {
      isSent = this.#send(queue, [...events, { type: EV_SYN, code: SYN_REPORT, value: 0 }]);
    });
    if (isSent) {
      this.state.count('packets');
      this.state.count('events', events.length);
    } else this.state.count('droppedPackets');
  }

  #problemOf(events: readonly InputEvent[]): string | undefined {
    const { length } = events;
    if (length === 0 || length > MOST_PACKET_EVENTS)
      return `a packet of ${length} events, where 1 to ${MOST_PACKET_EVENTS} can be`;
    for (const { type, code, value } of events) {
      if (type === EV_LED || !this.#kind.codes.get(type)?.includes(code))
        return `a ${this.#kindName} has no event of type ${type} and code ${code}`;
      if (!Number.isInteger(value) || value !== (value | 0)) return `${value} is no value of 32 bits`;
    }
    return undefined;
  }

  /** Returns whether there were buffers for all. A buffer takes one event. 5.8.6.2 */
  #send(queue: RemoteQueue, events: readonly InputEvent[]): boolean {
    const places = [];
    while (places.length < events.length && queue.fetch() && queue.next(0, EVENT_BYTES)) {
      if (queue.bytes < EVENT_BYTES) {
        queue.fail(`a buffer of ${queue.bytes} bytes for an event`);
        return false;
      }
      places.push({ head: queue.head, buffers: queue.buffers });
    }
    if (queue.fault !== undefined) return false;
    if (places.length < events.length) {
      queue.unpop(places.length);
      return false;
    }
    const bytes = new Uint8Array(EVENT_BYTES);
    const view = new DataView(bytes.buffer);
    for (const [i, { type, code, value }] of events.entries()) {
      const { head, buffers } = places[i] as (typeof places)[number];
      view.setUint16(0, type, true);
      view.setUint16(2, code, true);
      view.setInt32(4, value, true);
      queue.write(buffers, bytes);
      queue.push(EVENT_BYTES, head);
    }
    this.publish(queue);
    return true;
  }

  protected override directionOf(queue: number): ChainDirection {
    return queue === EVENTQ ? 'write' : 'read';
  }

  /** The driver's buffers for events wait for these. What it sends is lights, and what else the device does not do. */
  protected override serve(queue: RemoteQueue): boolean {
    if (queue.index === EVENTQ) return false;
    while (!this.isTurnOver && (queue.fetch() || queue.wantDoorbells())) {
      while (!this.isTurnOver && queue.next(0, EVENT_BYTES)) {
        if (queue.bytes >= EVENT_BYTES) this.#hear(queue.take());
        queue.push(0, queue.head);
      }
      if (queue.fault !== undefined) return false;
      this.publish(queue);
    }
    return this.isTurnOver;
  }

  #hear(event: Uint8Array): void {
    const view = new DataView(event.buffer, event.byteOffset);
    const [type, code, value] = [view.getUint16(0, true), view.getUint16(2, true), view.getInt32(4, true)];
    this.state.count('statusEvents');
    if (type !== EV_LED || !this.#kind.codes.get(EV_LED)?.includes(code)) return;
    this.#leds = value === 0 ? this.#leds & ~(1 << code) : this.#leds | (1 << code);
  }

  protected override stopQueues(): void {
    super.stopQueues();
    this.#leds = 0;
    this.#config.select(0, 0);
  }

  protected override get typeState(): TypeState {
    return {
      name: 'vinp',
      description: `a ${this.#kindName}`,
      save: (out) => {
        const { select, subsel } = this.#config.selected;
        out.u16(this.#kind.product).u8(select).u8(subsel).u8(this.#leds);
      },
      read: (reader) => {
        reader.same('kind of device', reader.u16(), this.#kind.product);
        const [select, subsel, leds] = [reader.u8(), reader.u8(), reader.u8()];
        return () => {
          this.#config.select(select, subsel);
          this.#leds = leds;
          return false;
        };
      },
    };
  }
}
