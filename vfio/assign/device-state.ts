/** A device's state by VFIO's migration protocol, v2: saved while it is stopped, loaded into another one of the same kind. */
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { GrowingBytes } from '../../sys/growing-bytes.js';
import {
  type FeatureOutput,
  type MigrationData,
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_MIG_DATA_SIZE,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_FEATURE_MIGRATION,
  VFIO_DEVICE_FEATURE_SET,
  VFIO_DEVICE_STATE_RESUMING,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_RUNNING_P2P,
  VFIO_DEVICE_STATE_STOP,
  VFIO_DEVICE_STATE_STOP_COPY,
  VFIO_MIGRATION_P2P,
} from '../feature.js';
import type { DeviceFile } from '../uapi.js';

/** More than a device's state has been seen to take; a stream that goes on for longer is refused. */
const MOST_BYTES = 256 << 20;
const PIECE_BYTES = 1 << 20;
/** A provider that answers each read late, with a byte, would else keep a guest still for years. */
const MOST_READ_MS = 60_000;

/**
 * VFIO_MIGRATION_ bits of a device: 0 if it cannot be saved.
 * @throws SysError of VFIO_DEVICE_FEATURE but ENOTTY. Machine thread, as all of this file
 */
export const migrationFlags = (file: DeviceFile): number =>
  lookAt(file, VFIO_DEVICE_FEATURE_MIGRATION)?.migrationFlags ?? 0;

/**
 * Estimate of the bytes that {@link saveDeviceState} returns; undefined if the device does not tell.
 * @throws SysError of VFIO_DEVICE_FEATURE but ENOTTY
 */
export const deviceStateBytes = (file: DeviceFile): bigint | undefined =>
  lookAt(file, VFIO_DEVICE_FEATURE_MIG_DATA_SIZE)?.stopCopyLength;

/** What a feature tells; undefined if the device lacks it. */
function lookAt(file: DeviceFile, feature: number): FeatureOutput | undefined {
  try {
    return file.deviceFeature(feature | VFIO_DEVICE_FEATURE_GET);
  } catch (error) {
    if (error instanceof SysError && error.errno === errno.ENOTTY) return undefined;
    throw error;
  }
}

/** Stops a device: when this returns, it neither interrupts nor accesses memory. @throws SysError of the device */
export const stopDevice = (file: DeviceFile): void => enter(file, VFIO_DEVICE_STATE_STOP);

/**
 * Makes a running device begin no DMA: RUNNING_P2P. Do so with every device that has it before one of them stops, and after all were stopped,
 * before one of them starts. Does nothing if the device has no VFIO_MIGRATION_P2P.
 * @throws SysError of the device
 */
export function quiesceDevice(file: DeviceFile): void {
  if ((migrationFlags(file) & VFIO_MIGRATION_P2P) !== 0) enter(file, VFIO_DEVICE_STATE_RUNNING_P2P);
}

/** Lets a stopped device go on. @throws SysError of the device */
export const startDevice = (file: DeviceFile): void => enter(file, VFIO_DEVICE_STATE_RUNNING);

/**
 * Saves a device, which is stopped then: {@link startDevice} lets it go on. Its configuration space, and the eventfds of its
 * interrupts, are its user's to save and restore.
 * @param name of the device, for errors
 * @param mostBytes a longer state is an error
 * @throws SysError ENOTSUP if the device cannot be saved, EFBIG for a state of more bytes, ETIMEDOUT if it takes a minute, or of the
 *   device; it runs then, unless it is in the state ERROR, which a reset ends
 */
export function saveDeviceState(file: DeviceFile, name: string, mostBytes = MOST_BYTES): Uint8Array {
  requireMigration(file, 'save', name);
  try {
    const state = read(file, name, mostBytes);
    stopDevice(file);
    return state;
  } catch (error) {
    tryTo(() => startDevice(file));
    throw error;
  }
}

function read(file: DeviceFile, name: string, mostBytes: number): Uint8Array {
  using stream = streamOf(file, name, VFIO_DEVICE_STATE_STOP_COPY);
  return readToEnd(stream, name, mostBytes);
}

/**
 * The bytes of a stopped device until the end, in as much time as {@link MOST_READ_MS}, as the guest stands still meanwhile.
 * @param now a clock, in milliseconds
 * @throws SysError EFBIG for more, ETIMEDOUT, or of the device
 */
export function readToEnd(
  stream: MigrationData,
  name: string,
  mostBytes = MOST_BYTES,
  now = () => performance.now(),
): Uint8Array {
  const fail = (code: 'EFBIG' | 'ETIMEDOUT', hint: string) =>
    new SysError({ call: 'save', target: name, errno: errno[code], hint });
  const state = new GrowingBytes();
  const piece = new Uint8Array(PIECE_BYTES);
  const end = now() + MOST_READ_MS;
  for (let got = stream.read(piece); got > 0; got = stream.read(piece)) {
    state.append(piece.subarray(0, got));
    if (state.length > mostBytes) throw fail('EFBIG', `its state has more than ${mostBytes} bytes`);
    if (now() > end)
      throw fail('ETIMEDOUT', `it has given ${state.length} bytes of its state in ${MOST_READ_MS / 1000} s`);
  }
  return state.bytes;
}

/**
 * Loads what {@link saveDeviceState} has saved into a device of the same kind, which is stopped then.
 * @throws SysError ENOTSUP if the device cannot be loaded, or of the device, as EINVAL for a state that is not of its kind. It has been
 *   reset then, if it has a reset
 */
export function loadDeviceState(file: DeviceFile, name: string, state: Uint8Array): void {
  using loading = DeviceLoading.begin(file, name);
  loading.write(state);
  loading.finish();
}

/** A device in RESUMING, whose state comes in pieces: those of PRE_COPY, and then the rest. Machine thread only. */
export class DeviceLoading implements Disposable {
  readonly #file: DeviceFile;
  readonly #stream: MigrationData;

  private constructor(file: DeviceFile, stream: MigrationData) {
    this.#file = file;
    this.#stream = stream;
  }

  /** @throws SysError as {@link loadDeviceState} */
  static begin(file: DeviceFile, name: string): DeviceLoading {
    requireMigration(file, 'load', name);
    return orReset(file, () => new DeviceLoading(file, streamOf(file, name, VFIO_DEVICE_STATE_RESUMING)));
  }

  /** @throws SysError as {@link loadDeviceState} */
  write(data: Uint8Array): void {
    orReset(this.#file, () => {
      for (let at = 0; at < data.length; at += PIECE_BYTES)
        this.#stream.write(data.subarray(at, at + PIECE_BYTES));
    });
  }

  /** The device takes the state over, and is stopped. @throws SysError as {@link loadDeviceState} */
  finish(): void {
    orReset(this.#file, () => stopDevice(this.#file));
  }

  /** Closes the stream: before {@link finish}, the device stays in RESUMING, which a reset leaves. */
  [Symbol.dispose](): void {
    this.#stream[Symbol.dispose]();
  }
}

function orReset<T>(file: DeviceFile, action: () => T): T {
  try {
    return action();
  } catch (error) {
    tryTo(() => file.reset());
    throw error;
  }
}

function requireMigration(file: DeviceFile, call: string, name: string): void {
  if (migrationFlags(file) !== 0) return;
  const hint = 'it has no migration (VFIO_DEVICE_FEATURE_MIGRATION)';
  throw new SysError({ call, target: name, errno: errno.ENOTSUP, hint });
}

/** The stream that a state opens. @throws SysError EIO if it opens none; of the device */
export function streamOf(file: DeviceFile, name: string, deviceState: number): MigrationData {
  const data = setState(file, deviceState);
  if (data !== undefined) return data;
  const hint = 'the device opened no stream of its state';
  throw new SysError({ call: 'VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE', target: name, errno: errno.EIO, hint });
}

const enter = (file: DeviceFile, deviceState: number): void =>
  setState(file, deviceState)?.[Symbol.dispose]();

/** Sets a state; the result is the stream that it opens, if it does. @throws SysError of the device */
export const setState = (file: DeviceFile, deviceState: number): MigrationData | undefined =>
  file.deviceFeature(VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | VFIO_DEVICE_FEATURE_SET, { deviceState }).data;

/** Undoes something after an error, which is the one that tells. */
export function tryTo(undo: () => void): void {
  try {
    undo();
  } catch (error) {
    if (!(error instanceof SysError)) throw error;
  }
}
