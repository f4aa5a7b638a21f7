/** The threads of one run of a machine, as the main thread starts and stops them. */
import { MessageChannel } from 'node:worker_threads';
import { startEventThread } from '../sys/event-thread.js';
import { createInboxControl, InboxBell, InboxSender } from '../sys/inbox.js';
import { startWorker } from '../sys/start-worker.js';
import type { VmConfig } from './config.js';
import { createEventFlow, EventReceipts } from './event-flow.js';
import type {
  MachineCommand,
  MachineEvent,
  MachineThreadData,
  RestoredState,
  VcpuThreadLink,
} from './protocol.js';
import type { SerialLinks } from './serial-links.js';
import { createVcpuBaton, VcpuBaton } from './vcpu-baton.js';
import type { VcpuThreadData } from './vcpu-thread.js';

interface VcpuThread extends VcpuThreadLink {
  readonly ended: Promise<void>;
}

function startVcpuThread(index: number, machine: SharedArrayBuffer): VcpuThread {
  const baton = createVcpuBaton();
  const control = createInboxControl();
  const data: VcpuThreadData = { index, baton, control, machine };
  const name = `tsvisor-cpu${index}`;
  // A thread that failed retires nothing itself, and the machine thread waits for it.
  const ended = startWorker({ module: 'vmm/vcpu-thread.js', name, data }).ended.finally(() =>
    new VcpuBaton(baton).retire(),
  );
  return { baton, control, ended };
}

/** The threads of one run. */
export interface MachineThreads {
  /** Commands for the machine. */
  readonly sender: InboxSender;
  /** Settles when the thread has ended. */
  readonly machine: Promise<void>;
  readonly others: readonly Promise<void>[];
  /** Requests the end of all threads; can be called repeatedly. */
  stop(): void;
}

/** @throws SysError EAGAIN if the host refuses the first of them; for a later one, `machine` rejects with it */
export function startThreads(
  config: VmConfig,
  startsPaused: boolean,
  serial: SerialLinks,
  hear: (event: MachineEvent) => unknown,
  restored?: RestoredState,
): MachineThreads {
  const control = createInboxControl();
  const commands = new MessageChannel();
  const events = startEventThread(control);
  const flow = createEventFlow();
  const sender = new InboxSender(commands.port1, control);
  const receipts = new EventReceipts(flow, () => sender.send({ kind: 'drained' } satisfies MachineCommand));
  const vcpus: VcpuThread[] = [];
  const runMachine = async (): Promise<void> => {
    for (let i = 0; config.vcpus > 1 && i < config.vcpus; i++) vcpus.push(startVcpuThread(i, control));
    const data: MachineThreadData = {
      config,
      control,
      commands: commands.port2,
      events: events.link,
      flow,
      startsPaused,
      restored,
      serial: serial.links,
      vcpuThreads: vcpus.map((thread) => ({ baton: thread.baton, control: thread.control })),
    };
    const transfer = [commands.port2, events.link.commands, events.link.notices];
    const { worker, ended } = startWorker({
      module: 'vmm/machine-thread.js',
      name: 'tsvisor-machine',
      data,
      transfer,
    });
    worker.on('message', (event: MachineEvent) => {
      const reading = hear(event);
      if (reading instanceof Promise) reading.catch(() => {}).finally(() => receipts.handled(event));
      else receipts.handled(event);
    });
    await ended;
  };
  const machine = runMachine().finally(() => commands.port1.close());
  const bells = [control, ...vcpus.map((vcpu) => vcpu.control)].map((each) => new InboxBell(each));
  return {
    sender,
    machine,
    others: [events.ended, ...vcpus.map((vcpu) => vcpu.ended)],
    stop() {
      events.stop();
      for (const bell of bells) bell.stop();
    },
  };
}
