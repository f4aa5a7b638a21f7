import { MessageChannel, Worker } from 'node:worker_threads';
import { startEventThread } from '../sys/event-thread.js';
import { createInboxControl, InboxBell } from '../sys/inbox.js';
import { installKickSignal } from '../sys/kick.js';
import { type MappedRange, unmap } from '../sys/mapping.js';
import { onProcessExit } from '../sys/process-exit.js';
import type { TraceName } from '../sys/trace.js';
import { workerUrl } from '../sys/worker-url.js';
import { decodeError } from './protocol.js';
import type { ServeEvent, ServeThreadData } from './serve-thread.js';

/** A device, and where it is offered. */
export interface DeviceServerOptions {
  /** As for a machine's device: `virtio-net`, a PCI address. */
  readonly address: string;
  readonly options?: Readonly<Record<string, string>>;
  /** Path of the unix socket. */
  readonly path: string;
  /** Maps memory that a client could cut short, which would end this process with SIGBUS. */
  readonly trustsClient?: boolean;
  readonly plugins?: readonly string[];
  readonly trace?: readonly TraceName[];
}

/** What somebody wants to hear of it. Called in the main thread. */
export interface DeviceServerObserver {
  readonly ready?: (description: string) => void;
  /** Clients that come and go, and what they were refused. */
  readonly told?: (text: string) => void;
  readonly trace?: (channel: string, text: string) => void;
}

/**
 * Offers a device on a unix socket, by the vfio-user protocol, to one client at a time. It lives in a thread of its own,
 * with an event thread for its data path. Main thread only.
 */
export class DeviceServer implements AsyncDisposable {
  /** Resolves once everything is closed. Rejects with what kept the device from being served. */
  readonly finished: Promise<void>;
  readonly #observer: DeviceServerObserver;
  readonly #control = createInboxControl();
  #failure: Error | undefined;
  #mapped: readonly MappedRange[] = [];

  private constructor(options: DeviceServerOptions, observer: DeviceServerObserver) {
    this.#observer = observer;
    this.finished = this.#run(options);
    this.finished.catch(() => {}); // whoever awaits it gets the error; nobody has to
  }

  /** Returns at once. */
  static start(options: DeviceServerOptions, observer: DeviceServerObserver = {}): DeviceServer {
    installKickSignal();
    return new DeviceServer(options, observer);
  }

  /** Sends the client away and closes the device. Returns at once: await {@link finished}. */
  stop(): void {
    new InboxBell(this.#control).stop();
  }

  async #run(options: DeviceServerOptions): Promise<void> {
    const commands = new MessageChannel();
    const events = startEventThread(this.#control);
    const { address, path } = options;
    const workerData: ServeThreadData = {
      address,
      path,
      options: options.options ?? {},
      trustsClient: options.trustsClient ?? false,
      plugins: options.plugins ?? [],
      trace: options.trace ?? [],
      control: this.#control,
      commands: commands.port2,
      events: events.link,
    };
    const worker = new Worker(workerUrl('vmm/serve-thread.js'), {
      name: 'tsvisor-serve',
      workerData,
      transferList: [commands.port2, events.link.commands, events.link.notices],
      trackUnmanagedFds: false,
    });
    const stop = () => {
      events.stop();
      this.stop();
    };
    using _hook = onProcessExit(stop);
    worker.on('message', (event: ServeEvent) => this.#hear(event));
    const fail = (error: Error) => {
      this.#failure ??= error;
      stop();
    };
    events.ended.catch(fail);
    await new Promise<void>((resolve) => {
      worker.once('error', fail);
      worker.once('exit', () => resolve());
    });
    commands.port1.close();
    stop();
    await Promise.allSettled([events.ended]);
    unmap(this.#mapped);
    if (this.#failure !== undefined) throw this.#failure;
  }

  #hear(event: ServeEvent): void {
    switch (event.kind) {
      case 'ready':
        this.#observer.ready?.(event.description);
        break;
      case 'told':
        this.#observer.told?.(event.text);
        break;
      case 'trace':
        this.#observer.trace?.(event.channel, event.text);
        break;
      case 'failed':
        this.#failure ??= decodeError(event.error);
        break;
      case 'ended':
        this.#mapped = event.mapped;
        break;
    }
  }

  /** Stops serving if it does, and waits until all of it is closed. Never rejects. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.stop();
    await this.finished.catch(() => {});
  }
}
