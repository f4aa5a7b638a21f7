/** VFIO_DEVICE_FEATURE of a device that another process serves, and its migration data. */
import { errno } from '../../../sys/errno.js';
import { isErrno, SysError } from '../../../sys/error.js';
import {
  type FeatureInput,
  type FeatureOutput,
  featureFlagsProblem,
  isPreCopyState,
  isSavingState,
  keepsMigrationData,
  type MigrationData,
  type PrecopyInfo,
  reportProblem,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_MASK,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_FEATURE_PROBE,
  VFIO_DEVICE_FEATURE_SET,
  VFIO_DEVICE_STATE_RESUMING,
} from '../../feature.js';
import {
  decodeFeatureReply,
  encodeFeatureRequest,
  isUserFeature,
  MIG_DATA_BYTES,
  MOST_BITMAP_BYTES,
} from '../feature.js';
import { invalid, Reader, Writer } from '../message.js';
import { VFIO_USER_DEVICE_FEATURE, VFIO_USER_MIG_DATA_READ, VFIO_USER_MIG_DATA_WRITE } from '../protocol.js';
import type { Connection } from './connection.js';

/** Servers of version 0.0 (rust-vmm) do not read the payload of an unknown command, which corrupts the stream. */
const FEATURE_MINOR = 1;

export class UserFeatures {
  readonly #connection: Connection;
  /** The stream of the device's current state. */
  #data: UserMigrationData | undefined;
  /** The state that was set last. */
  #state = 0;

  constructor(connection: Connection) {
    this.#connection = connection;
  }

  /** @see DeviceFile.deviceFeature */
  feature(flags: number, input: FeatureInput): FeatureOutput {
    const problem = featureFlagsProblem(flags);
    if (problem !== undefined) throw this.#error('EINVAL', problem);
    const number = flags & VFIO_DEVICE_FEATURE_MASK;
    const isProbe = (flags & VFIO_DEVICE_FEATURE_PROBE) !== 0;
    if (isProbe) return this.#ask(flags, {});
    if ((flags & (VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_SET)) === 0) {
      this.#ask(flags | VFIO_DEVICE_FEATURE_PROBE, {});
      throw this.#error('EINVAL', 'GET or SET');
    }
    if (!isUserFeature(flags)) {
      this.#ask(flags | VFIO_DEVICE_FEATURE_PROBE, {});
      throw this.#error('ENOTTY', `vfio-user has no structure for feature ${number}`);
    }
    if (number === VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE && (flags & VFIO_DEVICE_FEATURE_SET) !== 0)
      return this.#setState(flags, input);
    if (number === VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT) return this.#report(flags, input);
    // Linux refuses that; in this protocol it means all addresses.
    if (number === VFIO_DEVICE_FEATURE_DMA_LOGGING_START && input.logging?.ranges.length === 0)
      throw this.#error('EINVAL', 'a log needs ranges');
    return this.#ask(flags, input);
  }

  /** Servers also reply EINVAL for features that they lack; a refused probe distinguishes these. */
  #ask(flags: number, input: FeatureInput): FeatureOutput {
    if (this.#connection.minor < FEATURE_MINOR)
      throw this.#error('ENOTTY', `a server of version 0.${this.#connection.minor} has no features`);
    try {
      return this.#exchange(flags, input);
    } catch (error) {
      if (!isErrno(error, 'EINVAL') || !this.#isMissing(flags & VFIO_DEVICE_FEATURE_MASK)) throw error;
      throw this.#error('ENOTTY', 'the server does not know the feature', error);
    }
  }

  #isMissing(number: number): boolean {
    try {
      this.#exchange(number | VFIO_DEVICE_FEATURE_PROBE, {});
      return false;
    } catch (error) {
      if (isErrno(error, 'EINVAL') || isErrno(error, 'ENOTTY')) return true;
      throw error;
    }
  }

  #exchange(flags: number, input: FeatureInput): FeatureOutput {
    const request = encodeFeatureRequest(flags, input);
    const { payload } = this.#connection.ask(VFIO_USER_DEVICE_FEATURE, request);
    return decodeFeatureReply({ flags, input }, payload);
  }

  /** The reply does not tell whether the SET opened a stream; the previous and the new state do. */
  #setState(flags: number, input: FeatureInput): FeatureOutput {
    const number = VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE;
    const { deviceState: from = 0 } = this.#ask(number | VFIO_DEVICE_FEATURE_GET, {});
    const output = this.#ask(flags, input);
    const { deviceState: to = 0 } = output;
    this.#state = to;
    if (keepsMigrationData(from, to)) return output;
    this.end();
    if (!isSavingState(to) && to !== VFIO_DEVICE_STATE_RESUMING) return output;
    this.#data = new UserMigrationData(this.#connection, () => this.#state);
    return { ...output, data: this.#data };
  }

  /** Splits a report into pieces whose bitmaps fit a message. */
  #report(flags: number, input: FeatureInput): FeatureOutput {
    const { report } = input;
    const problem = report === undefined ? 'no range is given' : reportProblem(report);
    if (report === undefined || problem !== undefined) {
      this.#ask(flags | VFIO_DEVICE_FEATURE_PROBE, {});
      throw this.#error('EINVAL', problem ?? '');
    }
    const { iova, length, pageSize, bitmap } = report;
    const most = BigInt(MOST_BITMAP_BYTES) * 8n * pageSize;
    for (let done = 0n; done === 0n || done < length; done += most) {
      const left = length - done;
      const piece = {
        iova: (iova + done) as typeof iova,
        length: left < most ? left : most,
        pageSize,
        bitmap: bitmap.subarray(Number(done / pageSize / 8n)),
      };
      this.#ask(flags, { report: piece });
    }
    return {};
  }

  #error(code: 'EINVAL' | 'ENOTTY', hint: string, cause?: unknown): SysError {
    const target = this.#connection.path;
    return new SysError({ call: 'VFIO_DEVICE_FEATURE', target, errno: errno[code], hint, cause });
  }

  /** Ends the stream when a reset or the file's close ends the state. */
  end(): void {
    this.#data?.end();
    this.#data = undefined;
  }
}

/** A stream through messages: each read or write is one message, or several if it exceeds the peer's limit. */
class UserMigrationData implements MigrationData {
  readonly #connection: Connection;
  readonly #state: () => number;
  #end: keyof typeof errno | undefined;

  /** @param state that the device is in */
  constructor(connection: Connection, state: () => number) {
    this.#connection = connection;
    this.#state = state;
  }

  /** Makes further calls fail: the device has left the state. */
  end(): void {
    this.#end ??= 'ENODEV';
  }

  #use(call: string): Connection {
    if (this.#end === undefined) return this.#connection;
    const hint =
      this.#end === 'ENODEV' ? 'the device has left the state that the data belongs to' : undefined;
    throw this.#error(call, this.#end, hint);
  }

  #error(call: string, code: keyof typeof errno, hint?: string): SysError {
    const target = `migration data of ${this.#connection.path}`;
    return new SysError({ call, target, errno: errno[code], hint });
  }

  read(data: Uint8Array): number {
    const command = VFIO_USER_MIG_DATA_READ;
    const connection = this.#use('VFIO_USER_MIG_DATA_READ');
    const wanted = Math.min(data.length, connection.capabilities.maxDataXferSize);
    const request = new Writer(MIG_DATA_BYTES).u32(MIG_DATA_BYTES + wanted).u32(wanted).bytes;
    const { payload } = connection.ask(command, request);
    const reader = new Reader(command, payload);
    reader.argsz(MIG_DATA_BYTES);
    const got = reader.u32();
    if (got > wanted) throw invalid(command, `${got} bytes for ${wanted}`);
    data.set(reader.bytes(got));
    // The protocol has one end of a stream, the kernel two: that of PRE_COPY is for now.
    if (got === 0 && wanted > 0 && isPreCopyState(this.#state())) throw this.#error('read', 'ENOMSG');
    return got;
  }

  /** The kernel asks the descriptor by an ioctl, for which the protocol has no message. */
  precopyInfo(): PrecopyInfo {
    const call = 'VFIO_MIG_GET_PRECOPY_INFO';
    this.#use(call);
    const isPreCopy = isPreCopyState(this.#state());
    const hint = isPreCopy ? 'vfio-user has no message for it: read until ENOMSG' : undefined;
    throw this.#error(call, isPreCopy ? 'ENOTTY' : 'EINVAL', hint);
  }

  write(data: Uint8Array): void {
    const connection = this.#use('VFIO_USER_MIG_DATA_WRITE');
    const most = connection.capabilities.maxDataXferSize;
    for (let at = 0; at < data.length; at += most) {
      const piece = data.subarray(at, at + most);
      const size = MIG_DATA_BYTES + piece.length;
      const request = new Writer(size).u32(size).u32(piece.length).data(piece).bytes;
      connection.ask(VFIO_USER_MIG_DATA_WRITE, request);
    }
  }

  [Symbol.dispose](): void {
    this.#end = 'EBADF';
  }
}
