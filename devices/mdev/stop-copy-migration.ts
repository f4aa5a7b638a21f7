import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { MigrationOps } from '../../vfio/driver.js';
import {
  isPreCopyState,
  type MigrationData,
  VFIO_DEVICE_STATE_PRE_COPY,
  VFIO_DEVICE_STATE_PRE_COPY_P2P,
  VFIO_DEVICE_STATE_RESUMING,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_RUNNING_P2P,
  VFIO_DEVICE_STATE_STOP_COPY,
  VFIO_MIGRATION_P2P,
  VFIO_MIGRATION_PRE_COPY,
  VFIO_MIGRATION_STOP_COPY,
} from '../../vfio/feature.js';
import { LoadingStream, mostStateBytes, type SavedState, SavingStream } from './migration-streams.js';
import type { PreCopy } from './pre-copy.js';

/** A device whose state is copied while it is stopped. Machine thread only. */
export interface StoppableDevice {
  /** Length of its state in bytes, or the most if it has {@link estimateBytes}. */
  readonly stateBytes: number;
  /** Length of the state that {@link save} would return now, of a device whose states differ in length. */
  readonly estimateBytes?: (() => number) | undefined;
  /** Its state; while it is stopped. */
  save(): SavedState;
  /**
   * Takes over a state: of {@link stateBytes}, or of any length up to that if the device has {@link estimateBytes}. Returns false,
   * or what is wrong with it for a person, if it is none; whatever it took of it by then, a reset clears.
   */
  load(data: Uint8Array): boolean | string;
  /** When it returns, the device neither interrupts nor accesses memory. */
  stop(): void;
  /** Goes on where it was. */
  start(): void;
  /**
   * Between stopped and running, of a device with VFIO_MIGRATION_P2P: while it is quiet, it begins no DMA, and what it had begun has ended
   * when this returns; all else goes on. A device that is stopped is told, too, before it starts.
   */
  quiet?(isQuiet: boolean): void;
  /** What is copied while it runs, of a device with VFIO_MIGRATION_PRE_COPY. */
  readonly preCopy?: PreCopy | undefined;
  /** What saves such a state, for a person: `a card with 2 ports`. */
  readonly description: string;
}

const isRunning = (state: number): boolean =>
  state === VFIO_DEVICE_STATE_RUNNING || state === VFIO_DEVICE_STATE_RUNNING_P2P || isPreCopyState(state);
const isQuiet = (state: number): boolean =>
  state === VFIO_DEVICE_STATE_RUNNING_P2P || state === VFIO_DEVICE_STATE_PRE_COPY_P2P;

/**
 * Migration by STOP_COPY: all of a device's state is read while it is stopped, or what PRE_COPY has left of it, if the device has that.
 * Machine thread only.
 */
export class StopCopyMigration implements MigrationOps, Disposable {
  readonly flags: number;
  readonly #name: string;
  readonly #device: StoppableDevice;
  #state = VFIO_DEVICE_STATE_RUNNING;
  /** Of the states that have one. */
  #saving: SavingStream | undefined;
  #loading: LoadingStream | undefined;

  /** @param name of the device, for errors */
  constructor(name: string, device: StoppableDevice) {
    this.#name = name;
    this.#device = device;
    const p2p = device.quiet === undefined ? 0 : VFIO_MIGRATION_P2P;
    const preCopy = device.preCopy === undefined ? 0 : VFIO_MIGRATION_PRE_COPY;
    this.flags = VFIO_MIGRATION_STOP_COPY | p2p | preCopy;
  }

  getState(): number {
    return this.#state;
  }

  /** @see mostStateBytes */
  get mostResumeBytes(): number {
    return mostStateBytes(this.#device);
  }

  getDataSize(): bigint {
    const { stateBytes, estimateBytes, preCopy } = this.#device;
    if (preCopy !== undefined && isPreCopyState(this.#state)) return BigInt(preCopy.restBytes());
    return BigInt(estimateBytes?.() ?? stateBytes);
  }

  arc(from: number, to: number): MigrationData | undefined {
    const opened = this.#open(from, to);
    this.#move(to);
    return opened;
  }

  /** Returns to RUNNING, and drops the data of an unfinished migration: call it in the device's reset and close. */
  reset(): void {
    this[Symbol.dispose]();
    this.#move(VFIO_DEVICE_STATE_RUNNING);
  }

  /** The device stops, is quiet or starts as its new state wants it. */
  #move(to: number): void {
    const from = this.#state;
    this.#state = to;
    if (isRunning(from) && !isRunning(to)) this.#device.stop();
    if (isQuiet(from) !== isQuiet(to)) this.#device.quiet?.(isQuiet(to));
    if (!isRunning(from) && isRunning(to)) this.#device.start();
  }

  /** Returns the stream that the arc opens; ends the one that it leaves. */
  #open(from: number, to: number): MigrationData | undefined {
    if (isPreCopyState(from) && isPreCopyState(to)) return undefined;
    if (to === VFIO_DEVICE_STATE_STOP_COPY) return this.#save(from);
    if (from === VFIO_DEVICE_STATE_RESUMING) this.#load();
    this[Symbol.dispose]();
    if (to === VFIO_DEVICE_STATE_RESUMING) {
      this.#loading = new LoadingStream(this.#name, this.#device);
      return this.#loading;
    }
    if (to !== VFIO_DEVICE_STATE_PRE_COPY && to !== VFIO_DEVICE_STATE_PRE_COPY_P2P) return undefined;
    this.#device.preCopy?.begin();
    this.#saving = new SavingStream(this.#name, this.#device.preCopy);
    return this.#saving;
  }

  /** The rest of what was copied before, or all of it. */
  #save(from: number): MigrationData | undefined {
    const device = this.#device;
    if (this.#saving !== undefined && device.preCopy !== undefined && isPreCopyState(from)) {
      this.#move(VFIO_DEVICE_STATE_STOP_COPY);
      this.#saving.finish(this.#saving.hasPieces ? device.preCopy.rest() : device.save());
      device.preCopy.end();
      return undefined;
    }
    const saving = new SavingStream(this.#name);
    saving.finish(device.save());
    this.#saving = saving;
    return saving;
  }

  /** What is no state leaves the device in RESUMING, where the rest can still be written. @see mtty_load_state */
  #load(): void {
    const problem = this.#tryLoad();
    if (problem === undefined) return;
    const { description } = this.#device;
    const hint = `not what ${description} saves (${problem}): write that, or reset the device`;
    throw new SysError({ call: 'migration RESUMING to STOP', target: this.#name, errno: errno.EINVAL, hint });
  }

  /** Returns what is wrong with the data, if something is. */
  #tryLoad(): string | undefined {
    const { stateBytes, estimateBytes, preCopy } = this.#device;
    const loading = this.#loading;
    const data = loading?.state ?? new Uint8Array(0);
    if (loading?.problem !== undefined) return loading.problem;
    const hasPieces = loading?.hasPieces === true && preCopy !== undefined;
    const isWhole = data.length === stateBytes || (estimateBytes !== undefined && data.length < stateBytes);
    if (!hasPieces && !isWhole) return `${data.length} bytes, where its state has ${stateBytes}`;
    const problem = hasPieces ? preCopy.loadRest(data) : this.#device.load(data);
    if (problem === true) return undefined;
    return problem || 'its contents are no state';
  }

  /** Drops the data of an unfinished migration: call it before memory is freed of which {@link StoppableDevice.save} gives views. */
  [Symbol.dispose](): void {
    this.#saving?.end();
    this.#saving = undefined;
    this.#loading?.end();
    this.#loading = undefined;
    this.#device.preCopy?.end();
  }
}
