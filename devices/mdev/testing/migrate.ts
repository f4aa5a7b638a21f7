/** A device's state in tests, by the core's state machine over its functions. */
import { setDeviceState } from '../../../vfio/core/migration.js';
import type { VfioDeviceOps } from '../../../vfio/driver.js';
import {
  VFIO_DEVICE_STATE_RESUMING,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_STOP,
  VFIO_DEVICE_STATE_STOP_COPY,
} from '../../../vfio/feature.js';

const PIECE_BYTES = 1 << 20;

/** Stops a device, and returns its state. */
export function saveState(ops: VfioDeviceOps): Uint8Array {
  using out = setDeviceState(ops, VFIO_DEVICE_STATE_STOP_COPY);
  const pieces: Uint8Array[] = [];
  for (;;) {
    const piece = new Uint8Array(PIECE_BYTES);
    const got = out?.read(piece) ?? 0;
    if (got === 0) break;
    pieces.push(piece.subarray(0, got));
  }
  setDeviceState(ops, VFIO_DEVICE_STATE_STOP);
  return Buffer.concat(pieces);
}

/** Loads a state, and starts the device. Returns `ok`, or the error's code; the device is in RESUMING then. */
export function resumeState(ops: VfioDeviceOps, state: Uint8Array): string {
  {
    using into = setDeviceState(ops, VFIO_DEVICE_STATE_RESUMING);
    into?.write(state);
  }
  try {
    setDeviceState(ops, VFIO_DEVICE_STATE_RUNNING);
    return 'ok';
  } catch (error) {
    return (error as { code?: string }).code ?? String(error);
  }
}
