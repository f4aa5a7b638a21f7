/** The migration state machine: the arcs between a device's states. */
import type { errno } from '../../sys/errno.js';
import { Fd } from '../../sys/fd.js';
import type { MigrationOps, VfioDeviceOps } from '../driver.js';
import {
  isPreCopyState,
  type MigrationData,
  type PrecopyInfo,
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
      const opened = migration.arc(current, next);
      if (opened === undefined) continue;
      data?.[Symbol.dispose]();
      data = new DriverMigrationData(ops.name, migration, streamOf(opened, next, migration, ops.name));
    }
    return data;
  } catch (error) {
    data?.[Symbol.dispose]();
    throw error;
  }
}

function streamOf(
  opened: number | MigrationData,
  state: number,
  { mostResumeBytes = MOST_RESUME_BYTES }: MigrationOps,
  name: string,
): MigrationData {
  if (typeof opened !== 'number') return opened;
  const untold = (): never => {
    throw precopyError(name, 'ENOTTY', 'a stream with PRE_COPY is an object of the driver, and no file');
  };
  const most = state === VFIO_DEVICE_STATE_RESUMING ? mostResumeBytes : undefined;
  return new FdMigrationData(Fd.adopt(opened, `migration data of ${name}`), untold, most);
}

const precopyError = (name: string, code: keyof typeof errno, hint?: string) =>
  vfioError('VFIO_MIG_GET_PRECOPY_INFO', `migration data of ${name}`, code, hint);

/** A driver's stream: it is of no use once it is disposed, and has its pre-copy info in PRE_COPY only. */
class DriverMigrationData implements MigrationData {
  readonly #name: string;
  readonly #migration: MigrationOps;
  readonly #stream: MigrationData;
  #isDisposed = false;

  constructor(name: string, migration: MigrationOps, stream: MigrationData) {
    this.#name = name;
    this.#migration = migration;
    this.#stream = stream;
  }

  read(data: Uint8Array): number {
    return this.#use('read').read(data);
  }

  write(data: Uint8Array): void {
    this.#use('write').write(data);
  }

  precopyInfo(): PrecopyInfo {
    const stream = this.#use('VFIO_MIG_GET_PRECOPY_INFO');
    const state = this.#migration.getState();
    if (!isPreCopyState(state))
      throw precopyError(this.#name, 'EINVAL', `the device is in state ${state}, and not in PRE_COPY`);
    return stream.precopyInfo();
  }

  #use(call: string): MigrationData {
    if (this.#isDisposed) throw vfioError(call, `migration data of ${this.#name}`, 'EBADF');
    return this.#stream;
  }

  [Symbol.dispose](): void {
    if (this.#isDisposed) return;
    this.#isDisposed = true;
    this.#stream[Symbol.dispose]();
  }
}
