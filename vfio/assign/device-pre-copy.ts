/** A device whose state is read while it runs, by VFIO's PRE_COPY. */
import { errno } from '../../sys/errno.js';
import { isErrno, SysError } from '../../sys/error.js';
import {
  type MigrationData,
  type PrecopyInfo,
  VFIO_DEVICE_STATE_PRE_COPY,
  VFIO_DEVICE_STATE_PRE_COPY_P2P,
  VFIO_DEVICE_STATE_STOP_COPY,
  VFIO_MIGRATION_P2P,
} from '../feature.js';
import type { DeviceFile } from '../uapi.js';
import {
  deviceStateBytes,
  migrationFlags,
  readToEnd,
  setState,
  startDevice,
  streamOf,
  tryTo,
} from './device-state.js';

/** What a device in PRE_COPY has not given yet. */
export interface PreCopyLeft {
  /** Bytes of its first copy: stop the device once they are 0. */
  readonly initialBytes: number;
  /** Bytes that its stop would transfer, as far as it tells: VFIO_MIG_GET_PRECOPY_INFO, and VFIO_DEVICE_FEATURE_MIG_DATA_SIZE. */
  readonly bytes: number;
}

/** Of a round, whatever a device tells: as much as a state may have. What is left is for the next one. */
const MOST_ROUND_BYTES = 256 << 20;

/**
 * Reads a device in rounds while it runs, and the rest once it has stopped. What was read belongs to the state, in its order: load it by
 * {@link DeviceLoading}. Disposing closes the stream, and leaves the device in its state: {@link startDevice} lets it go on. A reset of the device
 * ends its PRE_COPY, and each call then is an error. Machine thread only.
 */
export class DevicePreCopy implements Disposable {
  readonly #file: DeviceFile;
  readonly #name: string;
  readonly #stream: MigrationData;
  /** Bytes that this round may still read, and those that it has read. */
  #due = 0;
  #done = 0;

  private constructor(file: DeviceFile, name: string, stream: MigrationData) {
    this.#file = file;
    this.#name = name;
    this.#stream = stream;
  }

  /** Enters PRE_COPY, which the device must have. @param name of the device, for errors @throws SysError of the device, which runs then */
  static begin(file: DeviceFile, name: string): DevicePreCopy {
    const it = new DevicePreCopy(file, name, streamOf(file, name, VFIO_DEVICE_STATE_PRE_COPY));
    try {
      it.beginRound();
      return it;
    } catch (error) {
      it[Symbol.dispose]();
      tryTo(() => startDevice(file));
      throw error;
    }
  }

  /**
   * Begins a round: {@link read} gives what there is now, and has an end, however fast the device changes. Returns that.
   * @throws SysError of the device
   */
  beginRound(): PreCopyLeft {
    const info = this.#info();
    const size = deviceStateBytes(this.#file);
    const stopBytes = size === undefined ? this.#done : Number(size);
    this.#done = 0;
    const initialBytes = Number(info?.initialBytes ?? 0n);
    const told = info === undefined ? size : info.initialBytes + info.dirtyBytes;
    this.#due = Math.min(Number(told ?? MOST_ROUND_BYTES), MOST_ROUND_BYTES);
    return { initialBytes, bytes: Math.max(Number(told ?? 0n), stopBytes) };
  }

  /** Undefined for a device that cannot tell, as one by vfio-user. */
  #info(): PrecopyInfo | undefined {
    try {
      return this.#stream.precopyInfo();
    } catch (error) {
      if (isErrno(error, 'ENOTTY')) return undefined;
      throw error;
    }
  }

  /** The next bytes of this round; undefined at its end. @param mostBytes at least 1 @throws SysError of the device */
  read(mostBytes: number): Uint8Array | undefined {
    if (this.#due <= 0) return undefined;
    const data = new Uint8Array(mostBytes);
    let got = 0;
    try {
      got = this.#stream.read(data);
    } catch (error) {
      if (!isErrno(error, 'ENOMSG')) throw error;
    }
    this.#due = got === 0 ? 0 : this.#due - got;
    this.#done += got;
    if (got === 0) return undefined;
    return got === mostBytes ? data : data.slice(0, got); // who passes on a view passes on all behind it
  }

  /** The device begins no DMA any more: PRE_COPY_P2P, if it has that. @throws SysError of the device */
  quiesce(): void {
    if ((migrationFlags(this.#file) & VFIO_MIGRATION_P2P) !== 0) this.#goOn(VFIO_DEVICE_STATE_PRE_COPY_P2P);
  }

  /** Stops the device; {@link rest} follows. @throws SysError of the device */
  stop(): void {
    this.#goOn(VFIO_DEVICE_STATE_STOP_COPY);
  }

  /** What is left of its state, once it is stopped. @throws SysError EFBIG, ETIMEDOUT, or of the device */
  rest(): Uint8Array {
    return readToEnd(this.#stream, this.#name);
  }

  /** A device that was reset would begin a stream anew, of which the other end has had pieces. */
  #goOn(state: number): void {
    const other = setState(this.#file, state);
    if (other === undefined) return;
    other[Symbol.dispose]();
    const hint = 'it was reset while it was copied: begin again';
    throw new SysError({ call: 'PRE_COPY', target: this.#name, errno: errno.ENODEV, hint });
  }

  /** Closes the stream. */
  [Symbol.dispose](): void {
    this.#stream[Symbol.dispose]();
  }
}
