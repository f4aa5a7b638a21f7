/** VFIO_USER_DEVICE_FEATURE, and the migration data that it opens. */
import { iova } from '../../../sys/address.js';
import { isErrno } from '../../../sys/error.js';
import {
  type FeatureInput,
  type FeatureOutput,
  isPreCopyState,
  isSavingState,
  keepsMigrationData,
  type MigrationData,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP,
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_MASK,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_FEATURE_PROBE,
  VFIO_DEVICE_STATE_ERROR,
  VFIO_DEVICE_STATE_RESUMING,
} from '../../feature.js';
import type { DeviceFile } from '../../uapi.js';
import { decodeFeatureRequest, encodeFeatureReply, type FeatureRequest, MIG_DATA_BYTES } from '../feature.js';
import { invalid, Reader, Writer } from '../message.js';
import {
  DEFAULT_MAX_DATA_XFER_SIZE,
  MAX_ADDRESS,
  VFIO_USER_DEVICE_FEATURE,
  VFIO_USER_MIG_DATA_READ,
  VFIO_USER_MIG_DATA_WRITE,
} from '../protocol.js';

/** The state of one client's use of a device's features. */
export class ServedFeatures implements Disposable {
  readonly #device: Pick<DeviceFile, 'deviceFeature'>;
  /** The state that the client set last, and its stream. */
  #state: number | undefined;
  #data: MigrationData | undefined;
  #isLogging = false;

  constructor(device: Pick<DeviceFile, 'deviceFeature'>) {
    this.#device = device;
  }

  /** VFIO_USER_DEVICE_FEATURE; returns the reply. @throws SysError as VFIO_DEVICE_FEATURE; E2BIG */
  feature(payload: Uint8Array): Uint8Array {
    const request = decodeFeatureRequest(payload);
    const { report, deviceState } = request.input;
    if (report !== undefined && !this.#isLogging)
      throw invalid(VFIO_USER_DEVICE_FEATURE, 'the log of DMA is not started');
    const output = this.#run(request);
    this.#noteLogging(request.flags);
    if (deviceState !== undefined) this.#keep(deviceState, output.data);
    if (report !== undefined) clearBehind(report.bitmap, report.length, report.pageSize);
    return encodeFeatureReply(request, output);
  }

  /** A device knows only its own log, and a client asks for it when it likes. */
  #noteLogging(flags: number): void {
    if ((flags & VFIO_DEVICE_FEATURE_PROBE) !== 0) return;
    const feature = flags & VFIO_DEVICE_FEATURE_MASK;
    if (feature === VFIO_DEVICE_FEATURE_DMA_LOGGING_START) this.#isLogging = true;
    if (feature === VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP) this.#isLogging = false;
  }

  /** A SET that fails may leave the device in ERROR, in which it has no data. */
  #run({ flags, input }: FeatureRequest): FeatureOutput {
    try {
      return this.#device.deviceFeature(flags, withRanges(input));
    } catch (error) {
      if (input.deviceState !== undefined && this.#data !== undefined && this.#isInError()) this.end();
      throw error;
    }
  }

  #isInError(): boolean {
    try {
      const flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE;
      return this.#device.deviceFeature(flags, {}).deviceState === VFIO_DEVICE_STATE_ERROR;
    } catch {
      return true; // a device that does not know its state
    }
  }

  /** Keeps the stream between saving states, for which the device opens no new one. */
  #keep(state: number, data: MigrationData | undefined): void {
    const isKept = data === undefined && this.#state !== undefined && keepsMigrationData(this.#state, state);
    this.#state = state;
    if (isKept) return;
    this.#data?.[Symbol.dispose]();
    this.#data = data;
  }

  /** VFIO_USER_MIG_DATA_READ; returns fewer bytes than requested at the end of the stream, and in PRE_COPY at any time. */
  readData(payload: Uint8Array): Uint8Array {
    const reader = new Reader(VFIO_USER_MIG_DATA_READ, payload);
    reader.argsz(MIG_DATA_BYTES);
    const wanted = reader.u32();
    if (wanted > DEFAULT_MAX_DATA_XFER_SIZE)
      throw invalid(VFIO_USER_MIG_DATA_READ, `${wanted} bytes at once`);
    const source = this.#requireData(VFIO_USER_MIG_DATA_READ, isSavingState);
    const data = new Uint8Array(wanted);
    const got = readAll(source, data, isPreCopyState(this.#state ?? VFIO_DEVICE_STATE_ERROR));
    const size = MIG_DATA_BYTES + got;
    return new Writer(size).u32(size).u32(got).data(data.subarray(0, got)).bytes;
  }

  /** VFIO_USER_MIG_DATA_WRITE */
  writeData(payload: Uint8Array): void {
    const reader = new Reader(VFIO_USER_MIG_DATA_WRITE, payload);
    reader.argsz(MIG_DATA_BYTES);
    const data = reader.bytes(reader.u32());
    this.#requireData(VFIO_USER_MIG_DATA_WRITE, isResuming).write(data);
  }

  /** A device's stream may allow both directions; its state has one. */
  #requireData(command: number, isRight: (state: number) => boolean): MigrationData {
    if (this.#data !== undefined && this.#state !== undefined && isRight(this.#state)) return this.#data;
    throw invalid(command, 'the device is in a state without migration data of this direction');
  }

  /** Ends the state and its stream, as a reset does. */
  end(): void {
    this.#data?.[Symbol.dispose]();
    this.#data = undefined;
    this.#state = undefined;
  }

  [Symbol.dispose](): void {
    this.end();
  }
}

/** Without ranges, all writes are to be logged; a device wants to know of which addresses. */
function withRanges(input: FeatureInput): FeatureInput {
  if (input.logging?.ranges.length !== 0) return input;
  return { ...input, logging: { ...input.logging, ranges: [{ iova: iova(0n), length: MAX_ADDRESS }] } };
}

const isResuming = (state: number): boolean => state === VFIO_DEVICE_STATE_RESUMING;

/** Clears the bits behind a range in its last word, whatever a device sets there. */
function clearBehind(bitmap: Uint8Array, length: bigint, pageSize: bigint): void {
  const pages = Number((length + pageSize - 1n) / pageSize);
  const at = Math.floor(pages / 8);
  if (at < bitmap.length) bitmap[at] = (bitmap[at] as number) & ((1 << (pages % 8)) - 1);
  bitmap.fill(0, at + 1);
}

/** A client waits for the reply, and the device's other work for this thread. */
const MOST_PRE_COPY_MS = 50;

/**
 * Reads until `data` is full: a short read, which a device may return at any time, would mean the end to the client. In PRE_COPY that is
 * one for now, so a device that has nothing then, or that has looked for a while, may be read again.
 */
function readAll(source: MigrationData, data: Uint8Array, isPreCopy: boolean): number {
  const until = isPreCopy ? performance.now() + MOST_PRE_COPY_MS : Number.POSITIVE_INFINITY;
  let got = 0;
  try {
    for (
      let more = -1;
      got < data.length && more !== 0 && (got === 0 || performance.now() < until);
      got += more
    )
      more = source.read(data.subarray(got));
  } catch (error) {
    // After some bytes, the next read reports it.
    if (got === 0 && !isErrno(error, 'ENOMSG')) throw error;
  }
  return got;
}
