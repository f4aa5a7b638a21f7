/** VFIO_USER_DEVICE_FEATURE and the migration data that goes with it. */
import { readSync, writeSync } from 'node:fs';
import { iova } from '../../../sys/address.js';
import { errno } from '../../../sys/errno.js';
import { SysError } from '../../../sys/error.js';
import { Fd } from '../../../sys/fd.js';
import {
  type FeatureInput,
  type FeatureOutput,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
  VFIO_DEVICE_FEATURE_MASK,
  VFIO_DEVICE_FEATURE_MIG_DATA_SIZE,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_FEATURE_MIGRATION,
  VFIO_DEVICE_FEATURE_PROBE,
  VFIO_DEVICE_FEATURE_SET,
} from '../../feature.js';
import { invalid, Reader, Writer } from '../message.js';
import {
  DEFAULT_MAX_DATA_XFER_SIZE,
  VFIO_USER_DEVICE_FEATURE,
  VFIO_USER_MIG_DATA_READ,
  VFIO_USER_MIG_DATA_WRITE,
} from '../protocol.js';

/** A device file that has features. */
export interface FeatureFile {
  deviceFeature(flags: number, input?: FeatureInput): FeatureOutput;
}

const FEATURE_BYTES = 8;
const MIG_DATA_BYTES = 8;
/** The kernel takes as many, a page of them. */
const MOST_RANGES = 256;
/** Of a dirty bitmap in one answer: 4 GiB of pages. */
const MOST_BITMAP_BYTES = 128 * 1024;

/** One client's use of a device's features. */
export class ServedFeatures implements Disposable {
  readonly #device: FeatureFile | undefined;
  /** Where the device's state is read from, or written to. */
  #data: Fd | undefined;

  constructor(device: object) {
    this.#device = 'deviceFeature' in device ? (device as FeatureFile) : undefined;
  }

  /** VFIO_USER_DEVICE_FEATURE, with its answer. @throws SysError as VFIO_DEVICE_FEATURE; ENOTTY without features */
  feature(payload: Uint8Array): Uint8Array {
    const reader = new Reader(VFIO_USER_DEVICE_FEATURE, payload);
    const argsz = reader.argsz(FEATURE_BYTES);
    const flags = reader.u32();
    const number = flags & VFIO_DEVICE_FEATURE_MASK;
    if (this.#device === undefined) throw refuse(errno.ENOTTY, 'the device has no features');
    const isSet = (flags & VFIO_DEVICE_FEATURE_SET) !== 0;
    const isProbe = (flags & VFIO_DEVICE_FEATURE_PROBE) !== 0;
    const head = (bytes: number) => new Writer(FEATURE_BYTES + bytes).u32(FEATURE_BYTES + bytes).u32(flags);
    const input = isProbe ? undefined : decodeInput(number, isSet, reader, argsz);
    const output = this.#device.deviceFeature(flags, input);
    if (isProbe) return head(0).bytes;
    switch (number) {
      case VFIO_DEVICE_FEATURE_MIGRATION:
        return head(8).u64(output.migrationFlags ?? 0).bytes;
      case VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE:
        if (isSet) this.#keep(output.dataFd ?? -1);
        // The data goes by messages of its own: the descriptor stays here.
        return head(8)
          .u32(output.deviceState ?? 0)
          .u32(0xffff_ffff).bytes;
      case VFIO_DEVICE_FEATURE_MIG_DATA_SIZE:
        return head(8).u64(output.stopCopyLength ?? 0n).bytes;
      case VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT: {
        const { report } = input as { report: NonNullable<FeatureInput['report']> };
        const { iova: at, length, pageSize, bitmap } = report;
        return head(24 + bitmap.length)
          .u64(at)
          .u64(length)
          .u64(pageSize)
          .data(bitmap).bytes;
      }
      default:
        return head(0).bytes;
    }
  }

  #keep(fd: number): void {
    this.#data?.[Symbol.dispose]();
    this.#data = fd < 0 ? undefined : Fd.adopt(fd, 'migration data');
  }

  /** VFIO_USER_MIG_DATA_READ; fewer bytes than were asked for are the last ones. */
  readData(payload: Uint8Array): Uint8Array {
    const reader = new Reader(VFIO_USER_MIG_DATA_READ, payload);
    reader.argsz(MIG_DATA_BYTES);
    const wanted = reader.u32();
    if (wanted > DEFAULT_MAX_DATA_XFER_SIZE)
      throw invalid(VFIO_USER_MIG_DATA_READ, `${wanted} bytes at once`);
    const data = new Uint8Array(wanted);
    const got = readSync(this.#requireData(VFIO_USER_MIG_DATA_READ).number, data);
    const size = MIG_DATA_BYTES + got;
    return new Writer(size).u32(size).u32(got).data(data.subarray(0, got)).bytes;
  }

  /** VFIO_USER_MIG_DATA_WRITE */
  writeData(payload: Uint8Array): void {
    const reader = new Reader(VFIO_USER_MIG_DATA_WRITE, payload);
    reader.argsz(MIG_DATA_BYTES);
    const data = reader.bytes(reader.u32());
    const fd = this.#requireData(VFIO_USER_MIG_DATA_WRITE).number;
    for (let at = 0; at < data.length; ) at += writeSync(fd, data, at);
  }

  #requireData(command: number): Fd {
    if (this.#data !== undefined) return this.#data;
    throw invalid(command, 'the device is in no state in which it has data');
  }

  [Symbol.dispose](): void {
    this.#data?.[Symbol.dispose]();
    this.#data = undefined;
  }
}

function decodeInput(
  number: number,
  isSet: boolean,
  reader: Reader,
  argsz: number,
): FeatureInput | undefined {
  switch (number) {
    case VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE:
      return isSet ? { deviceState: reader.u32() } : undefined;
    case VFIO_DEVICE_FEATURE_DMA_LOGGING_START: {
      const [pageSize, count] = [reader.u64(), reader.u32()];
      reader.u32();
      if (count > MOST_RANGES) throw refuse(errno.E2BIG, `at most ${MOST_RANGES} ranges`);
      const ranges = Array.from({ length: count }, () => ({
        iova: iova(reader.u64()),
        length: reader.u64(),
      }));
      return { logging: { pageSize, ranges } };
    }
    case VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT: {
      const [at, length, pageSize] = [iova(reader.u64()), reader.u64(), reader.u64()];
      if (pageSize === 0n) throw refuse(errno.EINVAL, 'a page size of 0');
      const words = (length / pageSize + 63n) / 64n;
      if (words * 8n > BigInt(MOST_BITMAP_BYTES) || BigInt(argsz) < words * 8n + 32n)
        throw refuse(errno.E2BIG, `the bitmap of 0x${length.toString(16)} bytes does not fit the answer`);
      return { report: { iova: at, length, pageSize, bitmap: new Uint8Array(Number(words) * 8) } };
    }
    default:
      return undefined;
  }
}

const refuse = (code: number, hint: string): SysError =>
  new SysError({ call: 'VFIO_USER_DEVICE_FEATURE', target: 'served device', errno: code, hint });
