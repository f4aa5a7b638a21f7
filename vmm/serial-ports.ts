/** The machine's serial ports: COM1 to COM4, each a 16550 where Linux looks for it. Machine thread only. */
import type { BusDevice } from '../devices/contracts.js';
import { ChannelReader } from '../devices/line/byte-channel.js';
import { ChannelLine } from '../devices/line/channel-line.js';
import type { SerialNotice, SerialTaskData } from '../devices/line/serial-task.js';
import { COM_PORTS } from '../devices/serial.js';
import { UART_CONNECTED, Uart16550, type UartLine } from '../devices/uart-16550.js';
import type { EventThread } from '../sys/event-task.js';
import { signalEventfd } from '../sys/eventfd.js';
import { Fd } from '../sys/fd.js';
import { Scope } from '../sys/scope.js';
import { trace } from '../sys/trace.js';
import { workerUrl } from '../sys/worker-url.js';
import { SerialConsole } from './console.js';
import type { MachineEvent, SerialLink } from './protocol.js';
import type { SavedPart } from './saved-part.js';

const TASK = workerUrl('devices/line/serial-task.js');

/** What the ports need of their machine. */
export interface SerialMachine {
  /** By port, from COM1; undefined for one that is not there. */
  readonly links: readonly (SerialLink | undefined)[];
  readonly emit: (event: MachineEvent) => void;
  /** Whether the observer can take more output. */
  readonly hasRoom: () => boolean;
  readonly eventThread: EventThread;
  /** Sets the level of an I/O APIC pin. */
  readonly irqLine: (gsi: number, level: boolean) => void;
}

/** A port that is there. */
interface Port {
  readonly number: number;
  readonly uart: Uart16550;
}

export class SerialPorts implements Disposable {
  /** The ports' registers, for the I/O bus. */
  readonly ranges: readonly { readonly base: number; readonly device: BusDevice }[];
  readonly #ports: readonly Port[];
  readonly #consoles: readonly SerialConsole[];
  readonly #scope: Scope;

  private constructor(ports: readonly Port[], consoles: readonly SerialConsole[], scope: Scope) {
    this.#ports = ports;
    this.#consoles = consoles;
    this.#scope = scope;
    this.ranges = ports.map(({ number, uart }) => ({ base: comPort(number).port, device: uart }));
  }

  /** @throws SysError if the task that serves the host's ends cannot start */
  static create(machine: SerialMachine): SerialPorts {
    using scope = new Scope();
    const doorbell = machine.links.some((link) => link?.kind === 'line')
      ? scope.own(Fd.eventfd('serial doorbell')).number
      : -1;
    const pins = new SharedPins(machine.irqLine);
    const consoles: SerialConsole[] = [];
    const ports = machine.links.flatMap((link, number) => {
      if (link === undefined) return [];
      const line =
        link.kind === 'line'
          ? new ChannelLine(link.buffers, () => signalEventfd(doorbell), true)
          : observerLine(machine, number, link.input, consoles);
      const { name, gsi } = comPort(number);
      return { number, uart: new Uart16550(name, { line, raise: pins.add(gsi) }) };
    });
    if (doorbell >= 0) scope.own(startTask(machine, ports, doorbell));
    const serial = new SerialPorts(ports, consoles, scope.move());
    serial.update(); // what was typed before the machine, or this restart of it, was there
    return serial;
  }

  /** Call when bytes have come for a port, or when the observer has room again. @param port all of them if absent */
  update(port?: number): void {
    for (const { number, uart } of this.#ports) if (port === undefined || number === port) uart.update();
  }

  /** The ports, by the names of their sections: what is in a UART's FIFOs, and not what waits at the host's end. */
  get saved(): readonly SavedPart[] {
    return this.#ports.map(({ number, uart }) => ({
      name: `serial ${number}`,
      save: () => uart.save(),
      load: (state) => uart.load(state),
    }));
  }

  /** Sends incomplete lines to the observer. */
  flush(): void {
    for (const console of this.#consoles) console.flush();
  }

  /** Bytes that the guest sent while a transmitter was full. */
  get lost(): number {
    return this.#ports.reduce((sum, { uart }) => sum + uart.lost, 0);
  }

  [Symbol.dispose](): void {
    this.#scope[Symbol.dispose]();
  }
}

function comPort(number: number) {
  const found = COM_PORTS[number];
  if (found === undefined) throw new RangeError(`a PC has no serial port ${number}`);
  return found;
}

function observerLine(
  { emit, hasRoom }: SerialMachine,
  port: number,
  input: SharedArrayBuffer,
  consoles: SerialConsole[],
): UartLine {
  const console = new SerialConsole(port, emit);
  consoles.push(console);
  const reader = new ChannelReader(input, () => emit({ kind: 'serial-room', port }));
  return {
    inputs: UART_CONNECTED,
    receive: () => reader.next(),
    transmit(bytes) {
      if (!hasRoom()) return 0;
      console.write(bytes);
      return bytes.length;
    },
  };
}

function startTask({ links, eventThread }: SerialMachine, ports: readonly Port[], doorbell: number) {
  const lines = ports.flatMap(({ number, uart: { name } }) => {
    const link = links[number];
    return link?.kind === 'line' ? { name, end: link.end, buffers: link.buffers } : [];
  });
  const task = eventThread.run(TASK, { lines, doorbell } satisfies SerialTaskData);
  task.receive = (message) => {
    const { name, text } = message as SerialNotice;
    if (text !== undefined && trace.vfio.hasSubscribers)
      trace.vfio.publish({ what: 'line', device: name, text });
    ports.find(({ uart }) => uart.name === name)?.uart.update();
  };
  return task;
}

/** COM1 and COM3 share a pin, and so do COM2 and COM4: it is high while any of its ports wants it. */
class SharedPins {
  readonly #irqLine: SerialMachine['irqLine'];
  /** Number of ports that want each pin. */
  readonly #wanting = new Map<number, number>();

  constructor(irqLine: SerialMachine['irqLine']) {
    this.#irqLine = irqLine;
  }

  /** One port's part of the pin, to be called whenever its level changes. */
  add(gsi: number): (level: boolean) => void {
    return (level) => {
      const before = this.#wanting.get(gsi) ?? 0;
      const after = before + (level ? 1 : -1);
      this.#wanting.set(gsi, after);
      if (before > 0 !== after > 0) this.#irqLine(gsi, after > 0);
    };
  }
}
