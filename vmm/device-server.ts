import { MessageChannel } from 'node:worker_threads';
import { errno } from '../sys/errno.js';
import { SysError } from '../sys/error.js';
import { startEventThread } from '../sys/event-thread.js';
import { createInboxControl, InboxBell, InboxSender } from '../sys/inbox.js';
import { installKickSignal } from '../sys/kick.js';
import { type MappedRange, unmap } from '../sys/mapping.js';
import { onProcessExit } from '../sys/process-exit.js';
import { startWorker } from '../sys/start-worker.js';
import type { TraceName } from '../sys/trace.js';
import { parseVgpuCards } from './config.js';
import type { DisplayName } from './display/messages.js';
import { encodePng, toPicture } from './display/png.js';
import { type Look, Screens } from './display/screens.js';
import { decodeError } from './error-data.js';
import { pluginUrls } from './plugin-url.js';
import type { ServeCommand, ServeEvent, ServeThreadData } from './serve-thread.js';
import type { VgpuCardConfig, VgpuCardInput } from './vgpu-cards.js';

/** A device to serve, and the socket. */
export interface DeviceServerOptions {
  /** Address of the device, as in a machine's configuration: `virtio-net`, a PCI address. */
  readonly address: string;
  /** The device's options by name, which follow its address on the command line. */
  readonly options?: Readonly<Record<string, string>>;
  /** Path of the unix socket. */
  readonly path: string;
  /** Maps memory that a client could truncate, which would kill this process with SIGBUS; false if absent. */
  readonly trustsClient?: boolean;
  /** Plug-in modules to load: URLs, absolute paths or package names. */
  readonly plugins?: readonly string[];
  /** Cards that a vGPU is a part of; one of 256 MiB named `card0` if there is none. */
  readonly vgpuCards?: readonly VgpuCardInput[];
  /** Trace channels to report to {@link DeviceServerObserver.trace}. */
  readonly trace?: readonly TraceName[];
}

/** Callbacks for the events of a server. Called in the main thread. */
export interface DeviceServerObserver {
  /** The socket now accepts clients; `description` is the device's. */
  readonly ready?: (description: string) => void;
  /** Readable messages about clients that connect and disconnect, and, as `warn`, about refused requests. */
  readonly told?: (text: string, level: 'info' | 'warn') => void;
  /** An event of a channel that {@link DeviceServerOptions.trace} names. */
  readonly trace?: (channel: string, text: string) => void;
}

interface CheckedOptions extends DeviceServerOptions {
  readonly vgpuCards: readonly VgpuCardConfig[];
}

/**
 * Serves a device on a unix socket through the vfio-user protocol, to one client at a time. It runs in a thread of its
 * own, with an event thread for the data path. Main thread only.
 */
export class DeviceServer implements AsyncDisposable {
  /** Resolves once everything is closed. Rejects with the error that prevented or ended the service. */
  readonly finished: Promise<void>;
  readonly #observer: DeviceServerObserver;
  readonly #control = createInboxControl();
  readonly #screens = new Screens((command) => this.#send(command));
  /** By number: what waits for the thread's answer. */
  readonly #injections = new Map<number, (error: Error | undefined) => void>();
  #lastInjection = 0;
  #sender: InboxSender | undefined;
  #failure: Error | undefined;
  #mapped: readonly MappedRange[] = [];

  private constructor(options: CheckedOptions, observer: DeviceServerObserver) {
    this.#observer = observer;
    this.finished = this.#run(options);
    this.finished.catch(() => {}); // the error reaches those who await it; awaiting is optional
  }

  /**
   * Starts a server. Returns immediately; {@link DeviceServerObserver.ready} reports that clients can connect.
   * @throws ConfigError for a plug-in that does not exist, or cards that cannot be
   */
  static start(options: DeviceServerOptions, observer: DeviceServerObserver = {}): DeviceServer {
    const plugins = pluginUrls(options.plugins ?? []);
    const vgpuCards = parseVgpuCards(options.vgpuCards ?? []);
    installKickSignal();
    return new DeviceServer({ ...options, plugins, vgpuCards }, observer);
  }

  /** Disconnects the client and closes the device. Returns immediately: await {@link finished}. */
  stop(): void {
    new InboxBell(this.#control).stop();
  }

  /**
   * Captures the device's display as PNG; without a client, the picture at the last client's disconnection. Does not
   * stop the client.
   * @throws SysError ENODATA while it displays nothing; ENODEV if it is not a display; EINVAL for an unsupported pixel
   *   format
   */
  screenshot(): Promise<Uint8Array> {
    return this.capture().then(toPicture).then(encodePng);
  }

  /**
   * As {@link screenshot}, but passes the pixels to `use` where the client draws them, without a copy. They are valid only
   * during that call.
   */
  look<T>(_slot: number | undefined, use: (look: Look) => T): Promise<T> {
    return this.#screens.look(undefined, use);
  }

  /**
   * As {@link screenshot}, but resolves to a copy of the pixels: never half of two frames, as long as the client shows a
   * frame through registers that trap.
   * @param into memory for the pixels, used if it has their size
   */
  capture(_slot?: number, into?: Uint8Array): Promise<Look> {
    return this.#screens.capture(undefined, into);
  }

  /** The device, if it is a display and a client has opened it. */
  displays(): Promise<readonly DisplayName[]> {
    return this.#screens.displays();
  }

  /**
   * Gives the device faults, for tests, with a client or without: `removed` or `slow:500+ignore-mask` of the test card; `none`
   * takes all away.
   * @throws SysError EINVAL for a text that the device does not know; ENOTSUP for a device that has no faults to give; ESRCH
   *   once the service has ended
   */
  inject(faults: string): Promise<void> {
    return new Promise((resolve, reject) => {
      const id = ++this.#lastInjection;
      this.#injections.set(id, (error) => (error === undefined ? resolve() : reject(error)));
      if (this.#send({ kind: 'inject', id, faults })) return;
      this.#injections.delete(id);
      reject(hasEnded());
    });
  }

  /** Sends a command; returns false if there is no thread to receive it. */
  #send(command: ServeCommand): boolean {
    this.#sender?.send(command);
    return this.#sender !== undefined;
  }

  async #run(options: CheckedOptions): Promise<void> {
    const commands = new MessageChannel();
    const events = startEventThread(this.#control);
    const { address, path } = options;
    const data: ServeThreadData = {
      address,
      path,
      options: options.options ?? {},
      trustsClient: options.trustsClient ?? false,
      plugins: options.plugins ?? [],
      vgpuCards: options.vgpuCards,
      trace: options.trace ?? [],
      control: this.#control,
      commands: commands.port2,
      events: events.link,
    };
    const stop = () => {
      events.stop();
      this.stop();
    };
    using _hook = onProcessExit(stop);
    this.#sender = new InboxSender(commands.port1, this.#control);
    const fail = (error: Error) => {
      this.#failure ??= error;
      stop();
    };
    events.ended.catch(fail);
    const serve = async () => {
      const transfer = [commands.port2, events.link.commands, events.link.notices];
      const { worker, ended } = startWorker({
        module: 'vmm/serve-thread.js',
        name: 'tsvisor-serve',
        data,
        transfer,
      });
      worker.on('message', (event: ServeEvent) => this.#hear(event));
      await ended;
    };
    await serve().catch(fail);
    this.#sender = undefined;
    commands.port1.close();
    stop();
    await Promise.allSettled([events.ended]);
    unmap(this.#mapped);
    this.#screens.end(this.#failure);
    for (const answer of this.#injections.values()) answer(hasEnded());
    this.#injections.clear();
    if (this.#failure !== undefined) throw this.#failure;
  }

  #hear(event: ServeEvent): void {
    switch (event.kind) {
      case 'ready':
        this.#observer.ready?.(event.description);
        break;
      case 'told':
        this.#observer.told?.(event.text, event.level);
        break;
      case 'trace':
        this.#observer.trace?.(event.channel, event.text);
        break;
      case 'plane':
      case 'displays':
      case 'stills':
        this.#screens.hear(event);
        break;
      case 'injected':
        this.#injections.get(event.id)?.(event.error && decodeError(event.error));
        this.#injections.delete(event.id);
        break;
      case 'failed':
        this.#failure ??= decodeError(event.error);
        break;
      case 'ended':
        this.#mapped = event.mapped;
        break;
    }
  }

  /** Stops serving, and waits until everything is closed. Never rejects. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.stop();
    await this.finished.catch(() => {});
  }
}

const hasEnded = () =>
  new SysError({
    call: 'inject',
    target: 'the served device',
    errno: errno.ESRCH,
    hint: 'its service has ended',
  });
