/** A device's state by VFIO's migration protocol, v2: saved while it is stopped, loaded into another one of the same kind. */
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
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
  VFIO_DEVICE_STATE_STOP,
  VFIO_DEVICE_STATE_STOP_COPY,
} from '../feature.js';
import type { DeviceFile } from '../uapi.js';

/** More than a device's state has been seen to take; a stream that goes on for longer is refused. */
const MOST_BYTES = 256 << 20;
const PIECE_BYTES = 1 << 20;

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

/** Lets a stopped device go on. @throws SysError of the device */
export const startDevice = (file: DeviceFile): void => enter(file, VFIO_DEVICE_STATE_RUNNING);

/**
 * Saves a device, which is stopped then: {@link startDevice} lets it go on. Its configuration space, and the eventfds of its
 * interrupts, are its user's to save and restore.
 * @param name of the device, for errors
 * @param mostBytes a longer state is an error
 * @throws SysError ENOTSUP if the device cannot be saved, EFBIG for a state of more bytes, or of the device; it runs then, unless it
 *   is in the state ERROR, which a reset ends
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
  const pieces: Uint8Array[] = [];
  for (let bytes = 0; ; ) {
    const piece = new Uint8Array(PIECE_BYTES);
    const got = stream.read(piece);
    if (got === 0) return Buffer.concat(pieces);
    bytes += got;
    if (bytes > mostBytes) {
      const hint = `its state has more than ${mostBytes} bytes`;
      throw new SysError({ call: 'save', target: name, errno: errno.EFBIG, hint });
    }
    pieces.push(piece.slice(0, got));
  }
}

/**
 * Loads what {@link saveDeviceState} has saved into a device of the same kind, which is stopped then.
 * @throws SysError ENOTSUP if the device cannot be loaded, or of the device, as EINVAL for a state that is not of its kind. It has been
 *   reset then, if it has a reset
 */
export function loadDeviceState(file: DeviceFile, name: string, state: Uint8Array): void {
  requireMigration(file, 'load', name);
  try {
    using stream = streamOf(file, name, VFIO_DEVICE_STATE_RESUMING);
    for (let at = 0; at < state.length; at += PIECE_BYTES) stream.write(state.subarray(at, at + PIECE_BYTES));
    stopDevice(file);
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

function streamOf(file: DeviceFile, name: string, deviceState: number): MigrationData {
  const data = setState(file, deviceState);
  if (data !== undefined) return data;
  const hint = 'the device opened no stream of its state';
  throw new SysError({ call: 'VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE', target: name, errno: errno.EIO, hint });
}

const enter = (file: DeviceFile, deviceState: number): void =>
  setState(file, deviceState)?.[Symbol.dispose]();

const setState = (file: DeviceFile, deviceState: number): MigrationData | undefined =>
  file.deviceFeature(VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | VFIO_DEVICE_FEATURE_SET, { deviceState }).data;

/** The first error is the one that tells. */
function tryTo(undo: () => void): void {
  try {
    undo();
  } catch (error) {
    if (!(error instanceof SysError)) throw error;
  }
}
