/** The event task of a virtio-net device: its queues and its port. */
import { sysErrorParts } from '../../sys/error-data.js';
import type { StartEventTask } from '../../sys/event-task.js';
import type { NetBackend, NetPort } from '../net/index.js';
import { InterruptSignals } from '../virtio/interrupt-signals.js';
import { DataPath } from './data-path.js';
import { KernelPath, QUEUE_FEATURES } from './kernel-path.js';
import type { OpenPortReply, QueueCommand, QueueTaskData } from './messages.js';
import { netBackends } from './net-backends.js';
import { SharedState } from './shared-state.js';

/**
 * Creates the event task for a list of net back-ends. To add back-ends of your own, export the result as `start` from a
 * module. @see createVirtioNetDriver
 */
export function createQueueTask(backends: readonly NetBackend[]): StartEventTask {
  return (data, context) => {
    const { shared, doorbells, maxFrame } = data as QueueTaskData;
    const state = new SharedState(shared);
    const signals = new InterruptSignals(state, context);
    let path: DataPath | undefined;
    /** Present if the kernel can move the frames of the path's port. */
    let kernelPath: KernelPath | undefined;

    function takePort(port: NetPort): OpenPortReply {
      path = new DataPath(port, state, signals, context, { doorbells, maxFrame });
      const { kernel } = port;
      const offloads = port.offloads?.offered ?? 0;
      if (kernel === undefined) return { offloads, lacking: 0n };
      if ('refusal' in kernel) return { offloads, lacking: 0n, kernel };
      kernelPath = new KernelPath({ port, kernel, path, state, signals, context, doorbells });
      return { offloads, lacking: QUEUE_FEATURES & ~kernel.features, kernel: { refusal: undefined } };
    }

    function openPort(name: string, address: string): OpenPortReply {
      const backend = backends.find((candidate) => candidate.name === name);
      if (backend === undefined) throw new Error(`the queue task has no net back-end ${name}`);
      try {
        return takePort(backend.open(address));
      } catch (error) {
        return { error: sysErrorParts(error) };
      }
    }

    function obey(command: QueueCommand): unknown {
      switch (command.kind) {
        case 'openPort':
          return openPort(command.backend, command.address);
        case 'attach':
          kernelPath?.attach(command.table);
          return path?.attach(command.table);
        case 'detach':
          kernelPath?.detach();
          return path?.detach();
        case 'start':
          return (kernelPath ?? path)?.start(command.queues, command.negotiated, command.epoch);
        case 'stop':
          signals.reset();
          kernelPath?.stop();
          return path?.stop();
        case 'interrupts':
          signals.retarget(command.targets);
          return kernelPath?.retarget();
        case 'vectors':
          return kernelPath?.retarget();
        case 'unmap':
          return kernelPath?.unmap(command.iova, command.bytes);
        case 'remap':
          return kernelPath?.remap();
        case 'maskIntx':
          return signals.maskIntx(command.isMasked);
        case 'command':
          signals.obeyCommand();
          kernelPath?.obeyCommand();
          return path?.pump();
        case 'transmit':
          return path?.transmitRemote(command.frames);
        case 'receive':
          return path?.receiveRemote(command.capacities);
        case 'used':
          return signals.queue(command.queue);
        case 'giveUp':
          return path?.giveUpRemote(command.queue);
        case 'endTurn':
          return path?.endTurn(command.hasMore);
      }
    }

    return {
      message: (message) => obey(message as QueueCommand),
      stop() {
        kernelPath?.[Symbol.dispose]();
        path?.[Symbol.dispose]();
        signals[Symbol.dispose]();
      },
    };
  };
}

export const start: StartEventTask = createQueueTask(netBackends);
