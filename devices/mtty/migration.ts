import { fstatSync, readSync, writeSync } from 'node:fs';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { duplicateFd, Fd } from '../../sys/fd.js';
import type { MigrationOps } from '../../vfio/driver.js';
import {
  VFIO_DEVICE_STATE_RESUMING,
  VFIO_DEVICE_STATE_RUNNING,
  VFIO_DEVICE_STATE_STOP_COPY,
  VFIO_MIGRATION_STOP_COPY,
} from '../../vfio/feature.js';
import { UART_STATE_BYTES, type Uart16550 } from '../uart-16550.js';

/** "mtty", and the version of the format: the number of ports, then each port's state. */
const MAGIC = [0x6d, 0x74, 0x74, 0x79, 1] as const;
const HEADER_BYTES = MAGIC.length + 1;

/** Stops and resumes a card. */
export interface MttyMotion {
  stop(): void;
  start(): void;
}

/**
 * Migrates a card's ports: registers and FIFOs. Bytes between a FIFO and the host's end of the line are lost, as with
 * an unplugged cable.
 */
export class MttyMigration implements MigrationOps, Disposable {
  readonly flags = VFIO_MIGRATION_STOP_COPY;
  readonly #name: string;
  readonly #ports: readonly Uart16550[];
  readonly #motion: MttyMotion;
  #state = VFIO_DEVICE_STATE_RUNNING;
  /** A duplicate of the descriptor that the user writes in RESUMING; kept while that state lasts. */
  #incoming: Fd | undefined;

  constructor(name: string, ports: readonly Uart16550[], motion: MttyMotion) {
    this.#name = name;
    this.#ports = ports;
    this.#motion = motion;
  }

  get #bytes(): number {
    return HEADER_BYTES + this.#ports.length * UART_STATE_BYTES;
  }

  getState(): number {
    return this.#state;
  }

  get mostResumeBytes(): number {
    return this.#bytes;
  }

  getDataSize(): bigint {
    return BigInt(this.#bytes);
  }

  arc(from: number, to: number): number | undefined {
    const fd = this.#act(from, to);
    this.#state = to;
    return fd;
  }

  /** Returns to RUNNING and drops the data of an unfinished migration. */
  reset(): void {
    this[Symbol.dispose]();
    if (this.#state === VFIO_DEVICE_STATE_RUNNING) return;
    this.#state = VFIO_DEVICE_STATE_RUNNING;
    this.#motion.start();
  }

  #act(from: number, to: number): number | undefined {
    if (to === VFIO_DEVICE_STATE_STOP_COPY) return this.#save();
    if (to === VFIO_DEVICE_STATE_RESUMING) return this.#beginLoad();
    if (to === VFIO_DEVICE_STATE_RUNNING) this.#motion.start();
    else if (from === VFIO_DEVICE_STATE_RUNNING) this.#motion.stop();
    else if (from === VFIO_DEVICE_STATE_RESUMING) this.#load();
    return undefined;
  }

  #save(): number {
    const data = Buffer.concat([
      Uint8Array.of(...MAGIC, this.#ports.length),
      ...this.#ports.map((port) => port.save()),
    ]);
    const fd = Fd.memfd(`${this.#name} state`);
    writeSync(fd.number, data, 0, data.length, 0);
    return fd.number; // now owned by the caller
  }

  #beginLoad(): number {
    this.#incoming = Fd.memfd(`${this.#name} state`);
    return duplicateFd(this.#incoming.number, this.#incoming.target).number;
  }

  /** What is no card's state leaves it in RESUMING, where the rest can still be written. @see mtty_load_state */
  #load(): void {
    const incoming = this.#incoming;
    const data = new Uint8Array(this.#bytes);
    const isWhole = incoming !== undefined && fstatSync(incoming.number).size === data.length;
    if (isWhole) readSync(incoming.number, data, 0, data.length, 0);
    const isOurs = [...MAGIC, this.#ports.length].every((byte, i) => data[i] === byte);
    const isLoaded = this.#ports.every((port, i) => {
      const at = HEADER_BYTES + i * UART_STATE_BYTES;
      return isWhole && isOurs && port.load(data.subarray(at, at + UART_STATE_BYTES));
    });
    if (isLoaded) {
      this[Symbol.dispose]();
      return;
    }
    const hint = `not the ${data.length} bytes that a card with ${this.#ports.length} ports saves: write them, or reset the device`;
    throw new SysError({ call: 'migration RESUMING to STOP', target: this.#name, errno: errno.EINVAL, hint });
  }

  [Symbol.dispose](): void {
    this.#incoming?.[Symbol.dispose]();
    this.#incoming = undefined;
  }
}
