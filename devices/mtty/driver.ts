import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { EventTask } from '../../sys/event-task.js';
import { signalEventfd } from '../../sys/eventfd.js';
import { Fd } from '../../sys/fd.js';
import { Scope } from '../../sys/scope.js';
import { trace } from '../../sys/trace.js';
import { workerUrl } from '../../sys/worker-url.js';
import type { MdevType, VendorDriver } from '../../vfio/driver.js';
import { optionProblem } from '../../vfio/option-problem.js';
import { createLineBuffers, type HostEnd } from '../line/messages.js';
import { createIntxPin, IntxPin } from '../mdev/intx-pin.js';
import { MttyDevice } from './device.js';
import type { LineCommand, LineTaskData, OpenLineReply } from './messages.js';
import { parseOptions } from './options.js';
import { MAX_PORTS } from './spec.js';

const builtIn = workerUrl('devices/mtty/line-task.js');

interface MttyType extends MdevType {
  readonly ports: number;
}

const typeOf = (ports: number, noun: string): MttyType => ({
  name: `mtty-${ports}`,
  description: `PCI serial card, ${noun} of 16550 kind (port0=loopback|pty|unix:PATH)`,
  deviceApi: 'vfio-pci',
  maxInstances: Math.floor(MAX_PORTS / ports),
  options: Array.from({ length: ports }, (_, i) => ({
    name: `port${i}`,
    value: 'loopback|pty|unix:PATH',
    description: `what port ${i} is connected to, by default loopback`,
  })),
  ports,
});

/**
 * The vendor driver `mtty`, after the kernel's sample: a PCI card with one 16550 UART (`mtty-1`) or two (`mtty-2`),
 * which stock Linux drives with 8250_pci. All cards share a pool of 24 ports. Options are `port0=` and `port1=`:
 * `loopback`, `pty` or `unix:PATH`. `create` throws SysError EINVAL for an invalid option, ENOSPC if too few ports are
 * left, and the host's error if it cannot open a port's end.
 * @param module module of the event task; the package's own if absent
 */
export function createMttyDriver(module: URL = builtIn): VendorDriver {
  const types = [typeOf(1, 'one port'), typeOf(2, 'two ports')];
  let portsLeft = MAX_PORTS;
  const portsOf = (type: MdevType) => (type as MttyType).ports;
  return {
    name: 'mtty',
    types,
    availableInstances: (type) => Math.floor(portsLeft / portsOf(type)),
    checkOptions: (type, options) => optionProblem(() => parseOptions(options, portsOf(type), type.name)),
    create(type, uuid, options, { eventThread }) {
      const ports = portsOf(type);
      const target = `${type.name} ${uuid}`;
      const ends = parseOptions(options, ports, target);
      if (ports > portsLeft)
        throw new SysError({ call: 'mdev create', target, errno: errno.ENOSPC, hint: 'no port is left' });
      using scope = new Scope();
      portsLeft -= ports;
      scope.defer(() => {
        portsLeft += ports;
      });
      const doorbell = scope.own(Fd.eventfd(`${type.name} doorbell`));
      const pin = createIntxPin();
      const lines = ends.map((end) => end && createLineBuffers());
      const data: LineTaskData = { pin, lines, doorbell: doorbell.number };
      const task = scope.own(eventThread.run(module, data));
      const ring = () => signalEventfd(doorbell.number);
      const ops = new MttyDevice({ name: type.name, pin, lines, task, ring });
      for (const [port, end] of ends.entries()) if (end !== undefined) openLine(task, type.name, port, end);
      const owned = scope.move();
      return {
        ops,
        counters: () => ({ interrupts: new IntxPin(pin).interrupts }),
        [Symbol.dispose]: () => owned[Symbol.dispose](),
      };
    },
  };
}

/** Opens the host's end of a port, and prints its address. @throws SysError of the host */
function openLine(task: EventTask, name: string, port: number, end: HostEnd): void {
  const reply = task.call({ kind: 'openLine', port, end } satisfies LineCommand) as OpenLineReply;
  if ('error' in reply) throw new SysError(reply.error);
  const text = `port ${port} is ${reply.address}`;
  if (trace.vfio.hasSubscribers) trace.vfio.publish({ what: 'line', device: name, text });
}
