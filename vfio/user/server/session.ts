/** The session of one client with a served device. */
import { errno } from '../../../sys/errno.js';
import { SysError } from '../../../sys/error.js';
import { disposable, Scope } from '../../../sys/scope.js';
import { trace } from '../../../sys/trace.js';
import { unixSocketPair } from '../../../sys/unix-socket.js';
import type { ContainerFile, DeviceFile } from '../../uapi.js';
import { Channel, type Message } from '../channel.js';
import {
  decodeInfoRequest,
  decodeIoFdsRequest,
  decodeIrqInfoRequest,
  decodeRegionInfoRequest,
  encodeDeviceInfo,
  encodeError,
  encodeIoFds,
  encodeIrqInfo,
  encodeMessage,
  encodeRegionInfo,
  encodeReply,
  invalid,
  ioFdsBytes,
  Reader,
  regionInfoBytes,
  type UserIoFd,
  Writer,
} from '../message.js';
import {
  commandName,
  DEFAULT_MAX_DATA_XFER_SIZE,
  DEFAULT_MAX_DMA_MAPS,
  DEFAULT_PGSIZES,
  FLAG_NO_REPLY,
  HEADER_BYTES,
  MAJOR,
  MAX_ANSWER_FDS,
  MAX_MSG_FDS,
  MINOR,
  TYPE_COMMAND,
  TYPE_MASK,
  TYPE_REPLY,
  VFIO_USER_DEVICE_FEATURE,
  VFIO_USER_DEVICE_GET_INFO,
  VFIO_USER_DEVICE_GET_IRQ_INFO,
  VFIO_USER_DEVICE_GET_REGION_INFO,
  VFIO_USER_DEVICE_GET_REGION_IO_FDS,
  VFIO_USER_DEVICE_RESET,
  VFIO_USER_DEVICE_SET_IRQS,
  VFIO_USER_DMA_MAP,
  VFIO_USER_DMA_UNMAP,
  VFIO_USER_IO_FD_TYPE_IOEVENTFD,
  VFIO_USER_MIG_DATA_READ,
  VFIO_USER_MIG_DATA_WRITE,
  VFIO_USER_REGION_READ,
  VFIO_USER_REGION_WRITE,
  VFIO_USER_REGION_WRITE_MULTI,
  VFIO_USER_VERSION,
} from '../protocol.js';
import { decodeVersion, encodeVersion } from '../version.js';
import { ClientMemory } from './client-memory.js';
import { ServedFeatures } from './feature.js';
import { setIrqs } from './irqs.js';
import { MOST_DEFERRED, MOST_DEFERRED_BYTES, MOST_DEFERRED_FDS } from './limits.js';
import { ServedRegions } from './regions.js';
import { endsConnection, MessageMemory } from './remote-memory.js';

/** A device opened for one client, with an address space of its own. Disposing closes both. */
export interface ServedDevice extends Disposable {
  /** The address space of the client's DMA maps. */
  readonly container: ContainerFile;
  /** The open device file. */
  readonly device: DeviceFile;
  /** Hears of the client's reset, before the device is. Serving thread. */
  readonly resetting?: () => void;
}

export interface SessionOptions {
  /** Maps memory that the client could truncate, which would kill this process with SIGBUS. */
  readonly trustsClient: boolean;
  /** How long {@link Session.step} waits for a message. */
  readonly waitMs: number;
  /** How long the client may take to propose a version, to reply, or to read a reply. */
  readonly replyMs: number;
}

const DEVICE_INFO_BYTES = 16;
const ACCESS_BYTES = 16;
const MULTI_ENTRY_DATA = 8;
/** Most writes of one VFIO_USER_REGION_WRITE_MULTI; QEMU coalesces about 200. */
const MOST_MULTI = 4096;

/** A command that arrived while a reply was awaited, with a copy of its payload. */
type Deferred = Omit<Message, 'fds'> & { readonly fds: Message['fds'] };

export class Session implements Disposable {
  readonly #channel: Channel;
  readonly #options: SessionOptions;
  readonly #device: DeviceFile;
  readonly #resetting: (() => void) | undefined;
  readonly #container: ContainerFile;
  readonly #regions: ServedRegions;
  readonly #features: ServedFeatures;
  readonly #scope: Scope;
  readonly #deferred: Deferred[] = [];
  #memory: ClientMemory | undefined;
  #remote: MessageMemory | undefined;
  /** Descriptors of one answer that the client takes. */
  #mostFds = 0;
  /** When the client must have proposed a version, as a time of performance.now(). */
  readonly #versionDue: number;
  /** Number of the client's commands so far. */
  commands = 0;

  constructor(channel: Channel, served: ServedDevice, options: SessionOptions) {
    this.#channel = channel;
    this.#options = options;
    this.#versionDue = performance.now() + options.replyMs;
    channel.setTimeouts(options.waitMs, options.replyMs);
    // Closed in reverse order: the memory before the device, the device before the connection.
    this.#scope = new Scope();
    this.#scope.own(channel);
    this.#scope.own(served);
    this.#device = served.device;
    this.#resetting = served.resetting;
    this.#container = served.container;
    this.#regions = this.#scope.own(new ServedRegions(served.device));
    this.#features = this.#scope.own(new ServedFeatures(served.device));
  }

  /** The connection's descriptor, readable when there is a message. */
  get fd(): number {
    return this.#channel.fd.number;
  }

  /**
   * Waits for a message, and replies to it.
   * @param isBlocking false does not wait
   * @returns false if there was no message
   * @throws SysError ECONNRESET, EPROTO or ETIMEDOUT if the connection has ended or must end: dispose the session
   */
  step(isBlocking = true): boolean {
    // A device accesses memory on its own, too: between steps.
    if (this.#remote?.failure !== undefined) throw this.#remote.failure;
    this.#remote?.expire();
    const deferred = this.#deferred.shift();
    const deadline = performance.now() + this.#options.waitMs;
    const message = deferred ?? this.#channel.receive(isBlocking, deadline);
    if (message === undefined) {
      if (this.#memory === undefined && performance.now() >= this.#versionDue) throw this.#silent();
      return false;
    }
    try {
      this.#handle(message);
    } finally {
      for (const fd of deferred?.fds ?? []) fd[Symbol.dispose]();
    }
    return true;
  }

  /** The error of a client with which the connection cannot go on. */
  #ended(hint: string): SysError {
    return new SysError({ call: 'receive', target: this.#channel.target, errno: errno.EPROTO, hint });
  }

  #silent(): SysError {
    const hint = `no ${commandName(VFIO_USER_VERSION)} for ${this.#options.replyMs / 1000} s`;
    return new SysError({ call: 'receive', target: this.#channel.target, errno: errno.ETIMEDOUT, hint });
  }

  #handle(message: Message): void {
    const { id, command, flags } = message;
    if ((flags & TYPE_MASK) !== TYPE_COMMAND) {
      if ((flags & TYPE_MASK) === TYPE_REPLY && this.#remote?.take(message) === true) return;
      // After an unexpected reply the stream may be out of sync.
      throw this.#ended(`an answer (${commandName(command)}) without a request`);
    }
    this.commands++;
    const wantsReply = (flags & FLAG_NO_REPLY) === 0;
    try {
      const reply = this.#run(message);
      if (wantsReply && reply !== undefined) this.#channel.send(reply.bytes, reply.fds);
    } catch (error) {
      if (endsConnection(error)) throw error;
      const code = error instanceof SysError ? error.errno : errno.EIO;
      this.#tell(`${commandName(command)} is refused: ${(error as Error).message}`);
      if (wantsReply) this.#channel.send(encodeError(id, command, code));
      if (command === VFIO_USER_VERSION && this.#memory === undefined)
        throw this.#ended('no version in common');
    }
  }

  #tell(text: string): void {
    if (trace.vfioUser.hasSubscribers)
      trace.vfioUser.publish({ what: 'serve', peer: this.#channel.target, text });
  }

  #run(message: Message): { readonly bytes: Uint8Array; readonly fds?: readonly number[] } | undefined {
    const { id, command, payload, fds } = message;
    const reply = (answer?: Uint8Array) => ({ bytes: encodeReply(id, command, answer) });
    if (this.#memory === undefined) {
      if (command !== VFIO_USER_VERSION) throw invalid(command, 'before the version was negotiated');
      return this.#negotiate(message);
    }
    switch (command) {
      case VFIO_USER_REGION_READ:
        return { bytes: this.#read(message) };
      case VFIO_USER_REGION_WRITE:
        return { bytes: this.#write(message) };
      case VFIO_USER_REGION_WRITE_MULTI:
        return reply(this.#writeMulti(payload));
      case VFIO_USER_DMA_MAP:
        this.#memory.map(payload, fds);
        return reply();
      case VFIO_USER_DMA_UNMAP:
        return reply(this.#memory.unmap(payload));
      case VFIO_USER_DEVICE_GET_INFO:
        decodeInfoRequest(command, payload, DEVICE_INFO_BYTES);
        return reply(encodeDeviceInfo(this.#device.getInfo()));
      case VFIO_USER_DEVICE_GET_REGION_INFO: {
        const { argsz, index } = decodeRegionInfoRequest(command, payload);
        const { info, fd } = this.#regions.region(index);
        const isWhole = fd !== undefined && argsz >= regionInfoBytes(info);
        return { ...reply(encodeRegionInfo(info, argsz)), fds: isWhole ? [fd] : [] };
      }
      case VFIO_USER_DEVICE_GET_REGION_IO_FDS:
        return this.#ioFds(id, payload);
      case VFIO_USER_DEVICE_GET_IRQ_INFO:
        return reply(encodeIrqInfo(this.#device.getIrqInfo(decodeIrqInfoRequest(command, payload).index)));
      case VFIO_USER_DEVICE_SET_IRQS:
        setIrqs(this.#device, payload, fds);
        return reply();
      case VFIO_USER_DEVICE_RESET:
        this.#resetting?.();
        this.#device.reset();
        this.#features.end();
        return reply();
      case VFIO_USER_DEVICE_FEATURE:
        return reply(this.#features.feature(payload));
      case VFIO_USER_MIG_DATA_READ:
        return reply(this.#features.readData(payload));
      case VFIO_USER_MIG_DATA_WRITE:
        this.#features.writeData(payload);
        return reply();
      default:
        throw invalid(command, 'unknown, or out of turn');
    }
  }

  #negotiate({ id, command, payload, fds }: Message): { bytes: Uint8Array; fds: readonly number[] } {
    if (fds.length > 0) throw invalid(command, 'with descriptors');
    const { minor, capabilities } = decodeVersion(payload, true);
    const isTwin = capabilities.twinSocket !== undefined && minor >= MINOR;
    this.#mostFds = Math.min(capabilities.maxMsgFds, MAX_ANSWER_FDS);
    const { trustsClient, replyMs } = this.#options;
    const most = Math.min(capabilities.maxDataXferSize, DEFAULT_MAX_DATA_XFER_SIZE);
    const twin = isTwin ? unixSocketPair('vfio-user twin socket') : undefined;
    const remote =
      twin === undefined
        ? new MessageMemory(this.#channel, most, replyMs, (message) => this.#defer(message))
        : this.#ownTwin(new Channel(twin[0]), most);
    this.#remote = remote;
    this.#memory = this.#scope.own(new ClientMemory({ container: this.#container, remote, trustsClient }));
    this.#container.setUnmapped?.(remote);
    const version = {
      major: MAJOR,
      minor: Math.min(minor, MINOR),
      capabilities: {
        maxMsgFds: MAX_MSG_FDS,
        maxDataXferSize: DEFAULT_MAX_DATA_XFER_SIZE,
        maxDmaMaps: DEFAULT_MAX_DMA_MAPS,
        pgsizes: DEFAULT_PGSIZES,
        // Not what a client did not propose.
        hasWriteMultiple: capabilities.hasWriteMultiple,
        twinSocket: isTwin ? { fdIndex: 0 } : undefined,
      },
    };
    const far = twin?.[1];
    // Sending the reply passes the client its own descriptor.
    if (far !== undefined) this.#scope.own(disposable(() => far[Symbol.dispose]()));
    return {
      bytes: encodeReply(id, command, encodeVersion(version, true)),
      fds: far === undefined ? [] : [far.number],
    };
  }

  #ownTwin(channel: Channel, most: number): MessageMemory {
    this.#scope.own(channel);
    const { replyMs } = this.#options;
    channel.setTimeouts(replyMs, replyMs);
    return new MessageMemory(channel, most, replyMs);
  }

  #defer(message: Message): void {
    const bytes = this.#deferred.reduce((sum, { size }) => sum + size, message.size);
    const fds = this.#deferred.reduce((sum, each) => sum + each.fds.length, message.fds.length);
    if (this.#deferred.length >= MOST_DEFERRED || bytes > MOST_DEFERRED_BYTES || fds > MOST_DEFERRED_FDS) {
      throw this.#ended(
        `${this.#deferred.length + 1} commands while an answer was awaited: ${bytes} bytes, ${fds} descriptors`,
      );
    }
    this.#deferred.push({ ...message, payload: message.payload.slice(), fds: message.fds.splice(0) });
  }

  /** Builds the reply in one buffer, into which the device reads directly. */
  #read({ id, command, payload }: Message): Uint8Array {
    const reader = new Reader(command, payload);
    const [offset, region, count] = [reader.size(), reader.u32(), reader.u32()];
    if (count > DEFAULT_MAX_DATA_XFER_SIZE) throw invalid(command, `${count} bytes at once`);
    const place = this.#regions.place(region, offset, count);
    const answer = new Uint8Array(HEADER_BYTES + ACCESS_BYTES + count);
    answer.set(payload.subarray(0, ACCESS_BYTES), HEADER_BYTES);
    if (count > 0) this.#device.read(place, answer.subarray(HEADER_BYTES + ACCESS_BYTES));
    const view = new DataView(answer.buffer);
    view.setUint16(0, id, true);
    view.setUint16(2, command, true);
    view.setUint32(4, answer.length, true);
    view.setUint32(8, TYPE_REPLY, true);
    return answer;
  }

  #write({ id, command, payload }: Message): Uint8Array {
    const reader = new Reader(command, payload);
    const [offset, region, count] = [reader.size(), reader.u32(), reader.u32()];
    // A copy: the device may access memory by message, and the reply to that overwrites the payload.
    const data = reader.bytes(count).slice();
    if (reader.left > 0) throw invalid(command, `${reader.left} bytes more than its count`);
    const answer = encodeMessage({ id, command, flags: TYPE_REPLY }, payload.subarray(0, ACCESS_BYTES));
    const place = this.#regions.place(region, offset, count);
    if (count > 0) this.#device.write(place, data);
    return answer;
  }

  /** Performs the writes up to the first failure, which the reply reports. */
  #writeMulti(payload: Uint8Array): Uint8Array {
    const command = VFIO_USER_REGION_WRITE_MULTI;
    const reader = new Reader(command, payload.slice()); // a copy, as for one write
    const count = reader.size();
    if (count > MOST_MULTI) throw invalid(command, `${count} writes at once`);
    for (let done = 0; done < count; done++) {
      const [offset, region, bytes] = [reader.size(), reader.u32(), reader.u32()];
      const data = reader.bytes(MULTI_ENTRY_DATA);
      if (bytes > MULTI_ENTRY_DATA) throw invalid(command, `a write of ${bytes} bytes`);
      const place = this.#regions.place(region, offset, bytes);
      this.#device.write(place, data.subarray(0, bytes));
    }
    return new Writer(8).u64(count).bytes;
  }

  /** The first doorbells whose descriptors fit an answer; the client's writes to others are messages, which also work. */
  #ioFds(id: number, payload: Uint8Array): { bytes: Uint8Array; fds: readonly number[] } {
    const command = VFIO_USER_DEVICE_GET_REGION_IO_FDS;
    const { argsz, index } = decodeIoFdsRequest(command, payload);
    const ioFds: UserIoFd[] = [];
    const fds: number[] = [];
    for (const { offset, size, datamatch, fd } of this.#device.getRegionIoFds(index)) {
      const known = fds.indexOf(fd);
      if (known < 0 && fds.length === this.#mostFds) continue;
      const fdIndex = known < 0 ? fds.push(fd) - 1 : known;
      ioFds.push({ offset, size, datamatch, fdIndex, type: VFIO_USER_IO_FD_TYPE_IOEVENTFD });
    }
    const isWhole = argsz >= ioFdsBytes(ioFds.length);
    const bytes = encodeReply(id, command, encodeIoFds(index, ioFds, argsz));
    return { bytes, fds: isWhole ? fds : [] };
  }

  /** Reports what cannot be released instead of throwing it: a client must not end its server by disconnecting. */
  [Symbol.dispose](): void {
    for (const { fds } of this.#deferred.splice(0)) for (const fd of fds) fd[Symbol.dispose]();
    try {
      this.#scope[Symbol.dispose]();
    } catch (error) {
      this.#tell(`not all of the client's is released: ${(error as Error).message}`);
    }
  }
}
