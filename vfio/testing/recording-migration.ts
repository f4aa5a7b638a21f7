import { readSync, writeSync } from 'node:fs';
import { Fd } from '../../sys/fd.js';
import type { MigrationOps } from '../driver.js';
import {
  VFIO_DEVICE_STATE_RESUMING,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_STOP_COPY,
  VFIO_MIGRATION_STOP_COPY,
} from '../feature.js';

/** A driver's migration with the state `content`, which is saved and loaded unchanged. */
export class RecordingMigration implements MigrationOps, Disposable {
  readonly flags: number;
  content: Uint8Array;
  /** The arcs so far, as [from, to]. */
  readonly arcs: [number, number][] = [];
  #state = VFIO_DEVICE_STATE_RUNNING;
  #incoming: Fd | undefined;

  constructor(content: Uint8Array, flags = VFIO_MIGRATION_STOP_COPY) {
    this.content = content;
    this.flags = flags;
  }

  getState(): number {
    return this.#state;
  }

  getDataSize(): bigint {
    return BigInt(this.content.length);
  }

  arc(from: number, to: number): number | undefined {
    this.arcs.push([from, to]);
    this.#state = to;
    if (from === VFIO_DEVICE_STATE_RESUMING) this.#load();
    if (to !== VFIO_DEVICE_STATE_STOP_COPY && to !== VFIO_DEVICE_STATE_RESUMING) return undefined;
    const file = Fd.memfd('migration'); // owned by the caller
    if (to === VFIO_DEVICE_STATE_RESUMING) this.#incoming = file.duplicate();
    else writeSync(file.number, this.content, 0, this.content.length, 0);
    return file.number;
  }

  #load(): void {
    const loaded = new Uint8Array(this.content.length);
    if (this.#incoming !== undefined) readSync(this.#incoming.number, loaded, 0, loaded.length, 0);
    this.content = loaded;
    this[Symbol.dispose]();
  }

  [Symbol.dispose](): void {
    this.#incoming?.[Symbol.dispose]();
    this.#incoming = undefined;
  }
}
