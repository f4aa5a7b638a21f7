/** The migration state machine: the arcs between a device's states. */
import { Fd } from '../../sys/fd.js';
import type { VfioDeviceOps } from '../driver.js';
import {
  type MigrationData,
  VFIO_DEVICE_STATE_ERROR,
  VFIO_DEVICE_STATE_PRE_COPY,
  VFIO_DEVICE_STATE_PRE_COPY_P2P,
  VFIO_DEVICE_STATE_RESUMING,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_RUNNING_P2P,
  VFIO_DEVICE_STATE_STOP,
  VFIO_DEVICE_STATE_STOP_COPY,
  VFIO_MIGRATION_P2P,
  VFIO_MIGRATION_PRE_COPY,
  VFIO_MIGRATION_STOP_COPY,
} from '../feature.js';
import { FdMigrationData } from '../migration-data.js';
import { vfioError } from '../vfio-error.js';

const [E, S, R, C, U, P, Y, Q] = [
  VFIO_DEVICE_STATE_ERROR,
  VFIO_DEVICE_STATE_STOP,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_STOP_COPY,
  VFIO_DEVICE_STATE_RESUMING,
  VFIO_DEVICE_STATE_RUNNING_P2P,
  VFIO_DEVICE_STATE_PRE_COPY,
  VFIO_DEVICE_STATE_PRE_COPY_P2P,
] as const;

/** Row: current state; column: target state, both in the order of their values; entry: the next state. */
const NEXT: readonly (readonly number[])[] = [
  [E, E, E, E, E, E, E, E], // ERROR: left by a reset only
  [E, S, P, C, U, P, P, P], // STOP
  [E, P, R, P, P, P, Y, P], // RUNNING
  [E, S, S, C, S, S, E, E], // STOP_COPY: pre-copying again is impossible
  [E, S, S, S, U, S, S, S], // RESUMING
  [E, S, R, S, S, P, R, Q], // RUNNING_P2P
  [E, R, R, Q, R, R, Y, Q], // PRE_COPY
  [E, P, P, C, P, P, Y, Q], // PRE_COPY_P2P
];

/** VFIO_MIGRATION_ bits that a device must support to have a state, by state; every device has ERROR. */
const NEEDS: readonly number[] = [
  0,
  VFIO_MIGRATION_STOP_COPY,
  VFIO_MIGRATION_STOP_COPY,
  VFIO_MIGRATION_STOP_COPY,
  VFIO_MIGRATION_STOP_COPY,
  VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P,
  VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_PRE_COPY,
  VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P | VFIO_MIGRATION_PRE_COPY,
];

/**
 * The next state on the path from `current` to `wanted`; skips states that the device does not have.
 * @param support VFIO_MIGRATION_ bits of the device
 * @see vfio_mig_get_next_state
 * @throws SysError EINVAL if the device does not have the state, or no path leads to it
 */
export function migGetNextState(current: number, wanted: number, support: number, target = 'device'): number {
  const fail = (hint: string) => vfioError('VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE', target, 'EINVAL', hint);
  const isSupported = (state: number): boolean => {
    const needs = NEEDS[state];
    return needs !== undefined && (needs & support) === needs;
  };
  if (!isSupported(current) || !isSupported(wanted)) throw fail(`from state ${current} to ${wanted}`);
  let next = nextOf(current, wanted);
  while (!isSupported(next)) next = nextOf(next, wanted);
  if (next === VFIO_DEVICE_STATE_ERROR) throw fail(`there is no way from state ${current} to ${wanted}`);
  return next;
}

const nextOf = (current: number, wanted: number): number =>
  (NEXT[current] as readonly number[])[wanted] as number;

/** The stream is kept in memory until the device takes it. */
const MOST_RESUME_BYTES = 16 << 20;

/**
 * Moves a device to a state, arc by arc. Returns the stream of the last arc that opened one.
 * @throws SysError EINVAL as {@link migGetNextState}; any error of an arc, after which the driver's `getState` is valid
 */
export function setDeviceState(ops: VfioDeviceOps, wanted: number): MigrationData | undefined {
  const { migration } = ops;
  if (migration === undefined) throw vfioError('VFIO_DEVICE_FEATURE', ops.name, 'ENOTTY');
  let data: MigrationData | undefined;
  try {
    for (let current = migration.getState(); current !== wanted; current = migration.getState()) {
      const next = migGetNextState(current, wanted, migration.flags, ops.name);
      const fd = migration.arc(current, next);
      if (fd === undefined) continue;
      data?.[Symbol.dispose]();
      const { mostResumeBytes = MOST_RESUME_BYTES } = migration;
      data = new FdMigrationData(
        Fd.adopt(fd, `migration data of ${ops.name}`),
        next === VFIO_DEVICE_STATE_RESUMING ? mostResumeBytes : undefined,
      );
    }
    return data;
  } catch (error) {
    data?.[Symbol.dispose]();
    throw error;
  }
}
