/** The event task of a queue pair of a virtio-net device: its queues and its port. */
import type { SysErrorInit } from '../../sys/error.js';
import { sysErrorParts } from '../../sys/error-data.js';
import type { StartEventTask } from '../../sys/event-task.js';
import { WrittenPages } from '../../vfio/written-pages.js';
import type { NetBackend, NetPair, NetPort } from '../net/index.js';
import { capturedPort } from '../net/pcap.js';
import { InterruptSignals } from '../virtio/interrupt-signals.js';
import type { PausedQueues } from '../virtio/messages.js';
import { TurnRequests } from '../virtio/turn-requests.js';
import { DataPath } from './data-path.js';
import { KernelPath, QUEUE_FEATURES } from './kernel-path.js';
import type { OpenPortReply, QueueCommand, QueueNotice, QueueTaskData } from './messages.js';
import { netBackends } from './net-backends.js';
import { SharedState } from './shared-state.js';

/** The port of one of several pairs, or the only one. @throws as {@link NetBackend.open} */
function openOf(backend: NetBackend, address: string, pair: NetPair): NetPort {
  if (pair.count === 1) return backend.open(address);
  if (backend.openPair === undefined) throw new Error(`${backend.name} has one port only`);
  return backend.openPair(address, pair);
}

/**
 * Creates the event task for a list of net back-ends. To add back-ends of your own, export the result as `start` from a
 * module. @see createVirtioNetDriver
 */
export function createQueueTask(backends: readonly NetBackend[]): StartEventTask {
  return (data, context) => {
    const { shared, doorbells, maxFrame, pair, pairs, pin, capture } = data as QueueTaskData;
    const state = new SharedState(shared, pairs, pair);
    const signals = new InterruptSignals(state, context, pair === 0 ? undefined : pin);
    if (pairs > 1 && pair === 0) signals.hearPin(pin);
    let control: Disposable | undefined;
    const controlTurns = new TurnRequests(
      context,
      () => context.notify({ kind: 'control' } satisfies QueueNotice),
      () => control !== undefined,
    );
    let path: DataPath | undefined;
    /** Present if the kernel can move the frames of the path's port. */
    let kernelPath: KernelPath | undefined;

    function takePort(opened: NetPort): OpenPortReply {
      const port = capture < 0 ? opened : capturedPort(opened, capture, captureEnded);
      path = new DataPath(port, state, signals, context, { doorbells, maxFrame, pair });
      const { kernel } = port;
      const offloads = port.offloads?.offered ?? 0;
      if (kernel === undefined) return { offloads, lacking: 0n };
      if ('refusal' in kernel) return { offloads, lacking: 0n, kernel };
      kernelPath = new KernelPath({ port, kernel, path, state, signals, context, doorbells, pair });
      const own = { refusal: undefined, canLog: kernel.setLog !== undefined };
      return { offloads, lacking: QUEUE_FEATURES & ~kernel.features, kernel: own };
    }

    function captureEnded(error: unknown): void {
      context.notify({ kind: 'captureEnded', error: (error as Error).message } satisfies QueueNotice);
    }

    function openPort(name: string, address: string): OpenPortReply {
      const backend = backends.find((candidate) => candidate.name === name);
      if (backend === undefined) throw new Error(`the queue task has no net back-end ${name}`);
      try {
        return takePort(openOf(backend, address, { index: pair, count: pairs }));
      } catch (error) {
        return { error: sysErrorParts(error) };
      }
    }

    function startControl(queue: number): void {
      stopControl();
      control = context.watch(doorbells[queue] as number, () => controlTurns.ask(), true);
      // Requests may wait since a doorbell that nobody heard.
      controlTurns.ask();
    }

    function stopControl(): void {
      control?.[Symbol.dispose]();
      control = undefined;
    }

    /** Returns what makes the error, if the kernel refuses. What it leaves to the data path is logged there. */
    function setLog(written: WrittenPages | undefined): SysErrorInit | undefined {
      path?.log(written);
      try {
        kernelPath?.log(written);
        return undefined;
      } catch (error) {
        return sysErrorParts(error);
      }
    }

    /** The port takes part before the kernel runs, and after it has halted. */
    function setActive(isActive: boolean): boolean {
      if (!isActive) kernelPath?.setActive(false);
      const isDone = path?.setActive(isActive) ?? false;
      if (isActive && isDone) kernelPath?.setActive(true);
      return isDone;
    }

    function obey(command: QueueCommand): unknown {
      switch (command.kind) {
        case 'openPort':
          return openPort(command.backend, command.address);
        case 'attach':
          kernelPath?.attach(command.table);
          return path?.attach(command.table);
        case 'log':
          return setLog(command.log && new WrittenPages(command.log));
        case 'gatherLog':
          return kernelPath?.gatherLog(command.iova, command.bytes);
        case 'detach':
          kernelPath?.detach();
          return path?.detach();
        case 'start':
          return (kernelPath ?? path)?.start(
            command.queues,
            command.negotiated,
            command.epoch,
            command.positions,
          );
        case 'stop':
          signals.reset();
          stopControl();
          kernelPath?.stop();
          path?.stop();
          if (pair > 0) setActive(false);
          return;
        case 'pause': {
          stopControl();
          const positions = (kernelPath ?? path)?.pause() ?? new Map();
          return { positions, pending: signals.pause() } satisfies PausedQueues;
        }
        case 'resume':
          return signals.resume(command.pending);
        case 'activate':
          return setActive(command.isActive);
        case 'startControl':
          return startControl(command.queue);
        case 'endControl':
          return controlTurns.end(command.hasMore);
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
          if (control !== undefined) controlTurns.ask();
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
