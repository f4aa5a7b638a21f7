import { MessageChannel, Worker } from 'node:worker_threads';
import { startEventThread } from '../sys/event-thread.js';
import { createInboxControl, InboxBell, InboxSender } from '../sys/inbox.js';
import { installKickSignal } from '../sys/kick.js';
import { type MappedRange, unmap } from '../sys/mapping.js';
import { onProcessExit } from '../sys/process-exit.js';
import type { TraceName } from '../sys/trace.js';
import { workerUrl } from '../sys/worker-url.js';
import { encodePng, toPicture } from './display/png.js';
import { type Look, Screens } from './display/screens.js';
import { decodeError } from './error-data.js';
import { pluginUrls } from './plugin-url.js';
import type { ServeEvent, ServeThreadData } from './serve-thread.js';

/** A device, and where it is offered. */
export interface DeviceServerOptions {
  /** As for a machine's device: `virtio-net`, a PCI address. */
  readonly address: string;
  /** The device's options, by name, as behind its address on the command line. */
  readonly options?: Readonly<Record<string, string>>;
  /** Path of the unix socket. */
  readonly path: string;
  /** Maps memory that a client could cut short, which would end this process with SIGBUS. */
  readonly trustsClient?: boolean;
  /** Plug-in modules to load: URLs, absolute paths or package names. */
  readonly plugins?: readonly string[];
  /** Trace channels to report to {@link DeviceServerObserver.trace}. */
  readonly trace?: readonly TraceName[];
}

/** What somebody wants to hear of it. Called in the main thread. */
export interface DeviceServerObserver {
  /** The socket accepts clients now; `description` says what the device is. */
  readonly ready?: (description: string) => void;
  /** Clients that come and go, and what they were refused. */
  readonly told?: (text: string) => void;
  /** An event of a channel that {@link DeviceServerOptions.trace} names. */
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
  readonly #screens = new Screens((command) => this.#send(command));
  #sender: InboxSender | undefined;
  #failure: Error | undefined;
  #mapped: readonly MappedRange[] = [];

  private constructor(options: DeviceServerOptions, observer: DeviceServerObserver) {
    this.#observer = observer;
    this.finished = this.#run(options);
    this.finished.catch(() => {}); // whoever awaits it gets the error; nobody has to
  }

  /**
   * Returns at once.
   * @throws ConfigError if there is no such plug-in
   */
  static start(options: DeviceServerOptions, observer: DeviceServerObserver = {}): DeviceServer {
    const plugins = pluginUrls(options.plugins ?? []);
    installKickSignal();
    return new DeviceServer({ ...options, plugins }, observer);
  }

  /** Sends the client away and closes the device. Returns at once: await {@link finished}. */
  stop(): void {
    new InboxBell(this.#control).stop();
  }

  /**
   * What the device shows its client now, as PNG; without a client, what it showed when the last one went. The client is
   * not held up.
   * @throws SysError ENODATA while it shows nothing; ENODEV if it is no display; EINVAL for a picture that is not understood
   */
  screenshot(): Promise<Uint8Array> {
    return this.look(undefined, toPicture).then(encodePng);
  }

  /** As {@link screenshot}, for whoever wants pixels. `use` is called while they are there: it keeps copies only. */
  look<T>(_slot: number | undefined, use: (look: Look) => T): Promise<T> {
    return this.#screens.look(undefined, use);
  }

  /** Returns whether there is a thread to hear it. */
  #send(command: unknown): boolean {
    this.#sender?.send(command);
    return this.#sender !== undefined;
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
    this.#sender = new InboxSender(commands.port1, this.#control);
    const fail = (error: Error) => {
      this.#failure ??= error;
      stop();
    };
    events.ended.catch(fail);
    await new Promise<void>((resolve) => {
      worker.once('error', fail);
      worker.once('exit', () => resolve());
    });
    this.#sender = undefined;
    commands.port1.close();
    stop();
    await Promise.allSettled([events.ended]);
    unmap(this.#mapped);
    this.#screens.end(this.#failure);
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
      case 'plane':
      case 'stills':
        this.#screens.hear(event);
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
