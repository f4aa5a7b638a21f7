import { MessageChannel } from 'node:worker_threads';
import { errno } from '../sys/errno.js';
import { SysError } from '../sys/error.js';
import { startEventThread } from '../sys/event-thread.js';
import { mountPath, unmountOwn } from '../sys/fuse-mount.js';
import { createInboxControl, InboxBell, InboxSender } from '../sys/inbox.js';
import { installKickSignal } from '../sys/kick.js';
import { type MappedRange, unmap } from '../sys/mapping.js';
import { onProcessExit } from '../sys/process-exit.js';
import { startWorker } from '../sys/start-worker.js';
import type { TraceName } from '../sys/trace.js';
import { unixPathProblem } from '../sys/unix-socket.js';
import type { InputEvent } from '../vfio/driver.js';
import type { ServedInput } from './api/served-routes.js';
import { parseVgpuCards } from './config.js';
import { ConfigError } from './config-error.js';
import type { DisplayName } from './display/messages.js';
import { encodePng, toPicture } from './display/png.js';
import type { ScreenSize } from './display/screen-size.js';
import { type Look, Screens } from './display/screens.js';
import { decodeError } from './error-data.js';
import { pluginUrls } from './plugin-url.js';
import { shown } from './problem-text.js';
import type { ServeCommand, ServeEvent, ServeThreadData } from './serve-thread.js';
import { isPciId, MOST_VFS } from './vf-sysfs.js';
import type { VgpuCardConfig, VgpuCardInput } from './vgpu-cards.js';

/** A device to serve, and its socket. */
export interface ServedDeviceConfig {
  /** Address of the device, as in a machine's configuration: `virtio-net`, a PCI address. */
  readonly address: string;
  /** The device's options by name, which follow its address on the command line. */
  readonly options?: Readonly<Record<string, string>>;
  /** Path of the unix socket. */
  readonly path: string;
}

/** VFs of a vGPU card, and where other programs find them. */
export interface VgpuVfsConfig {
  /** An empty folder, on which a sysfs is mounted: the card with its VFs, each with `nvidia/current_vgpu_type`. */
  readonly folder: string;
  /** A socket for each VF, 1 to 32, in their order: it is there as long as the VF has a type. */
  readonly sockets: readonly string[];
  /**
   * The PCI ID that the card and its VFs show in the sysfs, with the class of a 3D controller: `10de:26b9`, for software that looks
   * for NVIDIA's. Absent: that of the vGPUs, 1234:1111. The vGPUs that are served stay what they are.
   */
  readonly id?: string | undefined;
}

/** How devices are served. */
export interface ServeOptions {
  /** Maps memory that a client could truncate, which would kill this process with SIGBUS; false if absent. */
  readonly trustsClient?: boolean;
  /** Plug-in modules to load: URLs, absolute paths or package names. */
  readonly plugins?: readonly string[];
  /** Cards that a vGPU is a part of; one of 256 MiB named `card0` if there is none. */
  readonly vgpuCards?: readonly VgpuCardInput[];
  /** Trace channels to report to {@link DeviceServerObserver.trace}. */
  readonly trace?: readonly TraceName[];
}

/** What to serve, and how. */
export interface DeviceServerOptions extends ServedDeviceConfig, ServeOptions {
  /**
   * Further devices of the same core, each with a socket and a client of its own: parts of one vGPU card, say. They share a
   * thread, so that a client that keeps it busy slows the others down.
   */
  readonly beside?: readonly ServedDeviceConfig[];
}

/** VFs to serve, and how. */
export interface VgpuVfsOptions extends VgpuVfsConfig, ServeOptions {}

/** Callbacks for the events of a server. Called in the main thread. */
export interface DeviceServerObserver {
  /** The socket now accepts clients; `description` is the device's. For each device, once all of them do. */
  readonly ready?: (description: string, path: string) => void;
  /** Readable messages about clients that connect and disconnect, and, as `warn`, about refused requests. */
  readonly told?: (text: string, level: 'info' | 'warn') => void;
  /** An event of a channel that {@link DeviceServerOptions.trace} names. */
  readonly trace?: (channel: string, text: string) => void;
}

/** What waits for the thread's answer. */
interface Injection {
  readonly call: string;
  readonly settle: (error: Error | undefined) => void;
}

interface CheckedOptions extends ServeOptions {
  readonly devices: readonly ServedDeviceConfig[];
  readonly vfs: VgpuVfsConfig | undefined;
  readonly vgpuCards: readonly VgpuCardConfig[];
}

/**
 * Serves devices on unix sockets through the vfio-user protocol, each to one client at a time. It runs in a thread of its
 * own, with an event thread for the data path. Main thread only. Where a method takes a slot, it is the device's place in the
 * options, from 0.
 */
export class DeviceServer implements AsyncDisposable {
  /** Resolves once everything is closed. Rejects with the error that prevented or ended the service. */
  readonly finished: Promise<void>;
  readonly #observer: DeviceServerObserver;
  readonly #control = createInboxControl();
  readonly #screens = new Screens((command) => this.#send(command));
  /** By number: what waits for the thread's answer. */
  readonly #injections = new Map<number, Injection>();
  readonly #inputs: ServedInput[] = [];
  /** Settles once all devices accept clients. */
  readonly #ready: Promise<void>;
  #setReady: () => void = () => {};
  #lastInjection = 0;
  #sender: InboxSender | undefined;
  #failure: Error | undefined;
  #mapped: readonly MappedRange[] = [];

  private constructor(options: CheckedOptions, observer: DeviceServerObserver) {
    this.#observer = observer;
    this.#ready = new Promise((resolve) => {
      this.#setReady = resolve;
    });
    this.finished = this.#run(options);
    this.finished.catch(() => {}); // the error reaches those who await it; awaiting is optional
  }

  /**
   * Starts a server. Returns immediately; {@link DeviceServerObserver.ready} reports that clients can connect.
   * @throws ConfigError for a plug-in that does not exist, or cards that cannot be
   */
  static start(options: DeviceServerOptions, observer: DeviceServerObserver = {}): DeviceServer {
    const { address, path, beside = [] } = options;
    const devices = [{ address, path, options: options.options ?? {} }, ...beside];
    return DeviceServer.#start(options, { devices, vfs: undefined }, observer);
  }

  /**
   * Starts a server of a vGPU card's VFs, of which each is served once a program gives it a type: the ID, written to its attribute
   * `nvidia/current_vgpu_type`. {@link DeviceServerObserver.ready} reports the folder once it is mounted. Slots are the VFs', from 0.
   * {@link finished} rejects with SysError if it cannot be mounted: ENOENT, ENOTDIR or ENOTEMPTY for the folder, EPERM without
   * CAP_SYS_ADMIN, ENOENT or EACCES for /dev/fuse.
   * @throws ConfigError as {@link start}, and for more than one card, not 1 to 32 sockets, one that is there twice, in the folder or of
   *   too long a path, or an ID that is none; SysError ENOENT for the folder's parent, or a socket's
   */
  static startVfs(options: VgpuVfsOptions, observer: DeviceServerObserver = {}): DeviceServer {
    const { sockets, vgpuCards = [], id } = options;
    const problems = [
      ...(vgpuCards.length > 1 ? [{ path: 'vgpuCards[1]', text: 'VFs are those of one card' }] : []),
      ...(sockets.length >= 1 && sockets.length <= MOST_VFS
        ? []
        : [{ path: 'sockets', text: `there are ${sockets.length}: a card has 1 to ${MOST_VFS} VFs` }]),
      ...(id === undefined || isPciId(id)
        ? []
        : [{ path: 'id', text: `${shown(id)} is no PCI ID: 10de:26b9 would be one` }]),
    ];
    if (problems.length > 0) throw new ConfigError(problems);
    const vfs = { folder: mountPath(options.folder), sockets: sockets.map(mountPath), id };
    const wrong = vfs.sockets.flatMap((path, i) => {
      const text = vfSocketProblem(path, vfs);
      return text === undefined ? [] : [{ path: `sockets[${i}]`, text: `${sockets[i]} ${text}` }];
    });
    if (wrong.length > 0) throw new ConfigError(wrong);
    return DeviceServer.#start(options, { devices: [], vfs }, observer);
  }

  static #start(
    options: ServeOptions,
    what: Pick<CheckedOptions, 'devices' | 'vfs'>,
    observer: DeviceServerObserver,
  ): DeviceServer {
    const plugins = pluginUrls(options.plugins ?? []);
    const vgpuCards = parseVgpuCards(options.vgpuCards ?? []);
    installKickSignal();
    return new DeviceServer({ ...options, ...what, plugins, vgpuCards }, observer);
  }

  /** Disconnects the clients and closes the devices. Returns immediately: await {@link finished}. */
  stop(): void {
    new InboxBell(this.#control).stop();
  }

  /**
   * Captures a device's display as PNG, with its cursor; without a client, the picture at the last client's disconnection. Does not
   * stop the client.
   * @param slot undefined is the first display
   * @param head which screen of a device that has several, from 0 on; the first if undefined
   * @throws SysError ENODATA while it displays nothing; ENODEV if it is not a display, or no device; EINVAL for an unsupported
   *   pixel format
   */
  screenshot(slot?: number, head?: number): Promise<Uint8Array> {
    return this.capture(slot, undefined, head).then(toPicture).then(encodePng);
  }

  /**
   * As {@link screenshot}, but passes the pixels to `use` where the client draws them, without a copy and a cursor. They are valid only
   * during that call.
   */
  look<T>(slot: number | undefined, use: (look: Look) => T, head?: number): Promise<T> {
    return this.#screens.look(slot, use, head);
  }

  /**
   * As {@link screenshot}, but resolves to a copy of the pixels: never half of two frames, as long as the client shows a
   * frame through registers that trap.
   * @param into memory for the pixels, used if it has their size
   * @param since an earlier result of the same screen, with its pixels as they were: returned itself if the device says that it has drawn
   *   nothing since, as a virtio-gpu does
   */
  capture(slot?: number, into?: Uint8Array, head?: number, since?: Look): Promise<Look> {
    return this.#screens.capture(slot, into, head, since);
  }

  /** The devices that are displays and that a client has opened. */
  displays(): Promise<readonly DisplayName[]> {
    return this.#screens.displays();
  }

  /**
   * Gives a device faults, for tests, with a client or without: `removed` or `slow:500+ignore-mask` of the test card; `none`
   * takes all away.
   * @throws SysError EINVAL for a text that the device does not know; ENOTSUP for a device that has no faults to give; ENODEV
   *   for a slot without a device; ESRCH once the service has ended
   */
  inject(faults: string, slot = 0): Promise<void> {
    return this.#give('inject', (id) => ({ kind: 'inject', id, slot, faults }));
  }

  /**
   * Sends the client's guest a packet of events at one instant, of a device that is a keyboard, a tablet or a mouse; SYN_REPORT ends it by
   * itself. All of it arrives, or none if the guest's driver is not there, or does not take events as fast.
   * @throws SysError EINVAL for an event that the device does not have, or a packet of none or of more than 32; ENOTSUP for a device that
   *   takes no events; ENODEV for a slot without a device; ESRCH once the service has ended
   */
  input(events: readonly InputEvent[], slot = 0): Promise<void> {
    return this.#give('input', (id) => ({ kind: 'input', id, slot, events }));
  }

  /** The devices that take events by {@link input}, once all are ready; those that there were, once the service has ended. */
  async inputs(): Promise<readonly ServedInput[]> {
    await Promise.race([this.#ready, this.finished.catch(() => {})]);
    return this.#inputs;
  }

  /**
   * Tells the client's guest that a screen has another size, by its EDID: a virtio-gpu's driver is told at once, that of a vgpu when it
   * reads it.
   * @param head which screen of a device that has several, from 0 on
   * @throws SysError ENODEV without a client, that device or that screen; ENOTSUP if its EDID cannot be replaced; EINVAL for a size that it cannot have;
   *   ESRCH once the service has ended
   */
  resize(size: ScreenSize, head = 0, slot = 0): Promise<void> {
    return this.#give('resize', (id) => ({ kind: 'resize', id, slot, head, size }));
  }

  #give(call: string, command: (id: number) => ServeCommand): Promise<void> {
    return new Promise((resolve, reject) => {
      const id = ++this.#lastInjection;
      this.#injections.set(id, {
        call,
        settle: (error) => (error === undefined ? resolve() : reject(error)),
      });
      if (this.#send(command(id))) return;
      this.#injections.delete(id);
      reject(hasEnded(call));
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
    const { devices, vfs } = options;
    const data: ServeThreadData = {
      devices,
      vfs,
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
    using _hook = onProcessExit(() => {
      stop();
      // Its thread may not get to it any more.
      if (vfs !== undefined) unmountOwn(vfs.folder);
    });
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
    for (const { call, settle } of this.#injections.values()) settle(hasEnded(call));
    this.#injections.clear();
    if (this.#failure !== undefined) throw this.#failure;
  }

  #hear(event: ServeEvent): void {
    switch (event.kind) {
      case 'ready':
        if (event.input !== undefined) this.#inputs.push({ slot: event.slot, input: event.input });
        if (event.isLast) this.#setReady();
        this.#observer.ready?.(event.description, event.path);
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
        this.#injections.get(event.id)?.settle(event.error && decodeError(event.error));
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

/** What would fail only when the VF gets a type; undefined if nothing. */
function vfSocketProblem(path: string, { folder, sockets }: VgpuVfsConfig): string | undefined {
  const problem = unixPathProblem(path);
  if (problem !== undefined) return `is ${path}: ${problem}`;
  if (sockets.filter((each) => each === path).length > 1) return 'is there twice';
  // Making it there, the thread that answers for the folder would wait for itself.
  return `${path}/`.startsWith(`${folder}/`) ? 'is in the folder of the VFs’ sysfs' : undefined;
}

const hasEnded = (call: string) =>
  new SysError({
    call,
    target: 'the served device',
    errno: errno.ESRCH,
    hint: 'its service has ended',
  });
