import { fstatSync, readSync, writeSync } from 'node:fs';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { duplicateFd, Fd } from '../../sys/fd.js';
import { Scope } from '../../sys/scope.js';
import type { MigrationOps } from '../../vfio/driver.js';
import {
  VFIO_DEVICE_STATE_RESUMING,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_STOP_COPY,
  VFIO_MIGRATION_STOP_COPY,
} from '../../vfio/feature.js';

/** A device whose state is copied while it is stopped. Machine thread only. */
export interface StoppableDevice {
  /** Length of its state in bytes, or the most if it has {@link estimateBytes}. */
  readonly stateBytes: number;
  /** Length of the state that {@link save} would return now, of a device whose states differ in length. */
  readonly estimateBytes?: (() => number) | undefined;
  /** Its state; while it is stopped. */
  save(): Uint8Array;
  /**
   * Takes over a state: of {@link stateBytes}, or of any length up to that if the device has {@link estimateBytes}. Returns false,
   * or what is wrong with it for a person, if it is none; whatever it took of it by then, a reset clears.
   */
  load(data: Uint8Array): boolean | string;
  /** When it returns, the device neither interrupts nor accesses memory. */
  stop(): void;
  /** Goes on where it was. */
  start(): void;
  /** What saves such a state, for a person: `a card with 2 ports`. */
  readonly description: string;
}

/** Migration by STOP_COPY of a device whose state is small, or whose downtime does not matter. Machine thread only. */
export class StopCopyMigration implements MigrationOps, Disposable {
  readonly flags = VFIO_MIGRATION_STOP_COPY;
  readonly #name: string;
  readonly #device: StoppableDevice;
  #state = VFIO_DEVICE_STATE_RUNNING;
  /** A duplicate of the descriptor that the user writes in RESUMING; kept while that state lasts. */
  #incoming: Fd | undefined;

  /** @param name of the device, for errors */
  constructor(name: string, device: StoppableDevice) {
    this.#name = name;
    this.#device = device;
  }

  getState(): number {
    return this.#state;
  }

  get mostResumeBytes(): number {
    return this.#device.stateBytes;
  }

  getDataSize(): bigint {
    const { stateBytes } = this.#device;
    return BigInt(this.#device.estimateBytes?.() ?? stateBytes);
  }

  arc(from: number, to: number): number | undefined {
    const fd = this.#act(from, to);
    this.#state = to;
    return fd;
  }

  /** Returns to RUNNING, and drops the data of an unfinished migration: call it in the device's reset and close. */
  reset(): void {
    this[Symbol.dispose]();
    if (this.#state === VFIO_DEVICE_STATE_RUNNING) return;
    this.#state = VFIO_DEVICE_STATE_RUNNING;
    this.#device.start();
  }

  #act(from: number, to: number): number | undefined {
    if (to === VFIO_DEVICE_STATE_STOP_COPY) return this.#save();
    if (to === VFIO_DEVICE_STATE_RESUMING) return this.#beginLoad();
    if (to === VFIO_DEVICE_STATE_RUNNING) this.#device.start();
    else if (from === VFIO_DEVICE_STATE_RUNNING) this.#device.stop();
    else if (from === VFIO_DEVICE_STATE_RESUMING) this.#load();
    return undefined;
  }

  #save(): number {
    const data = this.#device.save();
    using scope = new Scope();
    const fd = scope.own(Fd.memfd(`${this.#name} state`));
    for (let at = 0; at < data.length; ) at += writeSync(fd.number, data, at, data.length - at, at);
    scope.move();
    return fd.number; // now owned by the caller
  }

  #beginLoad(): number {
    this.#incoming = Fd.memfd(`${this.#name} state`);
    return duplicateFd(this.#incoming.number, this.#incoming.target).number;
  }

  /** What is no state leaves the device in RESUMING, where the rest can still be written. @see mtty_load_state */
  #load(): void {
    const problem = this.#tryLoad();
    if (problem === undefined) {
      this[Symbol.dispose]();
      return;
    }
    const { description } = this.#device;
    const hint = `not what ${description} saves (${problem}): write that, or reset the device`;
    throw new SysError({ call: 'migration RESUMING to STOP', target: this.#name, errno: errno.EINVAL, hint });
  }

  /** Returns what is wrong with the data, if something is. */
  #tryLoad(): string | undefined {
    const { stateBytes, estimateBytes } = this.#device;
    const incoming = this.#incoming;
    const bytes = incoming === undefined ? 0 : fstatSync(incoming.number).size;
    const isWhole = bytes === stateBytes || (estimateBytes !== undefined && bytes < stateBytes);
    if (incoming === undefined || !isWhole) return `${bytes} bytes, where its state has ${stateBytes}`;
    const problem = this.#device.load(read(incoming, bytes));
    if (problem === true) return undefined;
    return problem === false ? 'its contents are no state' : problem;
  }

  /** Drops the data of an unfinished migration. */
  [Symbol.dispose](): void {
    this.#incoming?.[Symbol.dispose]();
    this.#incoming = undefined;
  }
}

/** Bytes that its writer has taken away meanwhile are zeros. */
function read(fd: Fd, bytes: number): Uint8Array {
  const data = new Uint8Array(bytes);
  for (let at = 0; at < bytes; ) {
    const got = readSync(fd.number, data, at, bytes - at, at);
    if (got === 0) break;
    at += got;
  }
  return data;
}
