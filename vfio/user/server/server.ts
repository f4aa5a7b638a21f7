import { errno } from '../../../sys/errno.js';
import { isErrno, SysError } from '../../../sys/error.js';
import * as libc from '../../../sys/libc.js';
import { Scope } from '../../../sys/scope.js';
import { peerCredentials, UnixListener } from '../../../sys/unix-socket.js';
import { groupsOf } from '../../interfaces.js';
import type { AssignableDevice, VfioProvider } from '../../provider.js';
import { VFIO_GROUP_FLAGS_VIABLE, VFIO_TYPE1v2_IOMMU } from '../../uapi.js';
import { Channel } from '../channel.js';
import { type ServedDevice, Session } from './session.js';

/** Options of a {@link VfioUserServer}. */
export interface VfioUserServerOptions {
  /** Path of the unix socket. */
  readonly path: string;
  /** Opens the device for a client that has connected. @throws SysError to refuse the client */
  readonly open: () => ServedDevice;
  /**
   * Maps memory that the client could truncate, which would kill this process (SIGBUS). If false, such memory is
   * accessed by message. Default: false.
   */
  readonly trustsClient?: boolean;
  /** Receives readable messages about clients that connect and disconnect; `warn` for one that did not go as it should. */
  readonly tell?: (text: string, level: 'info' | 'warn') => void;
}

/**
 * How long a step waits. Signals interrupt it when the thread has other work; a lost signal costs at most this time.
 */
const WAIT_MS = 100;
/** A client that does not reply within this time is disconnected. */
const REPLY_MS = 5000;
const POLLIN = 1;

/**
 * Serves a device of any provider on a unix socket, to one client at a time: QEMU's `vfio-user-pci`, another tsvisor.
 * When the client disconnects or fails, the device is closed; the next client finds it in its initial state. All work
 * happens in the thread that calls {@link step}, which must be the device's machine thread.
 */
export class VfioUserServer implements Disposable {
  readonly #options: VfioUserServerOptions;
  readonly #listener: UnixListener;
  readonly #poll = new Uint8Array(8);
  #session: Session | undefined;
  #pastCommands = 0;
  /** Why the last client was sent away; reported once. */
  #refusal: string | undefined;

  /** @throws SysError EADDRINUSE, EACCES, ENOENT for the path */
  constructor(options: VfioUserServerOptions) {
    this.#options = options;
    this.#listener = UnixListener.listen(options.path);
    new DataView(this.#poll.buffer).setInt32(0, this.#listener.fd.number, true);
    new DataView(this.#poll.buffer).setInt16(4, POLLIN, true);
  }

  /** Whether a client is connected. */
  get hasClient(): boolean {
    return this.#session !== undefined;
  }

  /** Number of commands of all clients so far. */
  get commands(): number {
    return this.#pastCommands + (this.#session?.commands ?? 0);
  }

  /** Descriptor that is readable when there is something to do: the client's socket, or the one for new clients. */
  get fd(): number {
    return this.#session?.fd ?? this.#listener.fd.number;
  }

  /**
   * Serves the next message of the client, or accepts a new client.
   * @param isBlocking false does not wait: for a thread that waits for {@link fd} and other things by itself, and steps
   *   until there is nothing more
   * @returns false if there was neither; after 100 ms if it waits
   */
  step(isBlocking = true): boolean {
    return this.#session === undefined ? this.#accept(isBlocking) : this.#serve(this.#session, isBlocking);
  }

  #tell(text: string, level: 'info' | 'warn' = 'info'): void {
    this.#options.tell?.(text, level);
  }

  #accept(isBlocking: boolean): boolean {
    if (libc.poll(this.#poll, 1, isBlocking ? WAIT_MS : 0) <= 0) return false;
    using scope = new Scope();
    try {
      const fd = this.#listener.accept();
      if (fd === undefined) return false;
      scope.own(fd);
      const channel = scope.own(new Channel(fd));
      const served = scope.own(this.#options.open());
      const { trustsClient = false } = this.#options;
      this.#session = new Session(channel, served, { trustsClient, waitMs: WAIT_MS, replyMs: REPLY_MS });
      scope.move();
      const peer = peerCredentials(fd);
      const who = peer === undefined ? '' : `: process ${peer.pid}, user ${peer.uid}`;
      this.#tell(`a client has connected${who}`);
      this.#refusal = undefined;
      return true;
    } catch (error) {
      const { message } = error as Error;
      if (message !== this.#refusal) this.#tell(`a client was refused: ${message}`, 'warn');
      this.#refusal = message;
      // What keeps one client out mostly keeps the next one out: do not spin.
      libc.poll(this.#poll, 0, WAIT_MS);
      return false;
    }
  }

  #serve(session: Session, isBlocking: boolean): boolean {
    try {
      return session.step(isBlocking);
    } catch (error) {
      this.#session = undefined;
      this.#pastCommands += session.commands;
      session[Symbol.dispose]();
      const isUsual = isErrno(error, 'ECONNRESET');
      const how = isUsual ? 'has disconnected' : `was disconnected: ${(error as Error).message}`;
      this.#tell(`the client ${how}, after ${session.commands} commands`, isUsual ? 'info' : 'warn');
      return true;
    }
  }

  /** Disconnects the client, and removes the socket's file. */
  [Symbol.dispose](): void {
    this.#session?.[Symbol.dispose]();
    this.#session = undefined;
    this.#listener[Symbol.dispose]();
  }
}

/**
 * Opens a device through its group, in a container of its own.
 * @throws SysError EPERM if the group is not viable; ENODEV if the provider has no groups; any error of the steps
 */
export function openForClient(provider: VfioProvider, device: AssignableDevice): ServedDevice {
  using scope = new Scope();
  const groups = groupsOf(provider);
  const container = scope.own(groups.openContainer());
  const group = scope.own(groups.openGroup(device.group));
  if ((group.getStatus() & VFIO_GROUP_FLAGS_VIABLE) === 0)
    throw new SysError({ call: 'VFIO_GROUP_GET_STATUS', target: group.target, errno: errno.EPERM });
  group.setContainer(container);
  scope.defer(() => group.unsetContainer());
  container.setIommu(VFIO_TYPE1v2_IOMMU);
  const file = scope.own(group.getDeviceFd(device.name));
  const owned = scope.move();
  return { container, device: file, [Symbol.dispose]: () => owned[Symbol.dispose]() };
}
