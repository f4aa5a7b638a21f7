/**
 * Payloads of VFIO_USER_DEVICE_FEATURE and of VFIO_USER_MIG_DATA_READ and _WRITE, for both sides. They are the kernel's
 * structures with their pointers' targets inlined; migration data is sent in messages instead of through a descriptor.
 */
import { iova } from '../../sys/address.js';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import {
  bitmapBytes,
  type FeatureInput,
  type FeatureOutput,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
  VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP,
  VFIO_DEVICE_FEATURE_MASK,
  VFIO_DEVICE_FEATURE_MIG_DATA_SIZE,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_FEATURE_MIGRATION,
  VFIO_DEVICE_FEATURE_PROBE,
  VFIO_DEVICE_FEATURE_SET,
} from '../feature.js';
import { Reader, Writer } from './message.js';
import { VFIO_USER_DEVICE_FEATURE } from './protocol.js';

const FEATURE_BYTES = 8;
const REPORT_BYTES = 24;
const LOGGING_BYTES = 16;
const RANGE_BYTES = 16;
/** Bytes of the header before migration data. */
export const MIG_DATA_BYTES = 8;
/** The kernel's limit, which is a page of ranges. */
const MOST_RANGES = 256;
/** Bytes of a dirty bitmap in one message: 4 GiB of pages. */
export const MOST_BITMAP_BYTES = 128 * 1024;
const NO_FD = 0xffff_ffff;
const NOTHING = new Uint8Array(0);

const refuse = (code: number, hint: string): SysError =>
  new SysError({ call: 'VFIO_USER_DEVICE_FEATURE', target: 'vfio-user peer', errno: code, hint });

/** Whether the protocol, or libvfio-user, defines the feature's structure. */
export const isUserFeature = (flags: number): boolean =>
  [
    VFIO_DEVICE_FEATURE_MIGRATION,
    VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
    VFIO_DEVICE_FEATURE_MIG_DATA_SIZE,
    VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
    VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP,
    VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
  ].includes(flags & VFIO_DEVICE_FEATURE_MASK);

const head = (argsz: number, flags: number, bytes: number): Writer =>
  new Writer(FEATURE_BYTES + bytes).u32(argsz).u32(flags);

/** Encodes a client's request. @throws SysError EINVAL if the feature's input is missing */
export function encodeFeatureRequest(flags: number, input: FeatureInput): Uint8Array {
  const need = <T>(value: T | undefined, what: string): T => {
    if (value === undefined) throw refuse(errno.EINVAL, `no ${what} is given`);
    return value;
  };
  if ((flags & VFIO_DEVICE_FEATURE_PROBE) !== 0) return head(FEATURE_BYTES, flags, 0).bytes;
  const isSet = (flags & VFIO_DEVICE_FEATURE_SET) !== 0;
  switch (flags & VFIO_DEVICE_FEATURE_MASK) {
    case VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE:
      if (!isSet) return head(FEATURE_BYTES + 8, flags, 0).bytes;
      return head(FEATURE_BYTES + 8, flags, 8)
        .u32(need(input.deviceState, 'state'))
        .u32(NO_FD).bytes;
    case VFIO_DEVICE_FEATURE_MIGRATION:
    case VFIO_DEVICE_FEATURE_MIG_DATA_SIZE:
      return head(FEATURE_BYTES + 8, flags, 0).bytes;
    case VFIO_DEVICE_FEATURE_DMA_LOGGING_START: {
      const { pageSize, ranges } = need(input.logging, 'range');
      const bytes = LOGGING_BYTES + RANGE_BYTES * ranges.length;
      const writer = head(FEATURE_BYTES + bytes, flags, bytes)
        .u64(pageSize)
        .u32(ranges.length)
        .u32(0);
      for (const { iova: at, length } of ranges) writer.u64(at).u64(length);
      return writer.bytes;
    }
    case VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT: {
      const { iova: at, length, pageSize } = need(input.report, 'range');
      const argsz = FEATURE_BYTES + REPORT_BYTES + Number(bitmapBytes(length, pageSize));
      return head(argsz, flags, REPORT_BYTES).u64(at).u64(length).u64(pageSize).bytes;
    }
    default:
      return head(FEATURE_BYTES, flags, 0).bytes;
  }
}

/** Features whose structure has 8 bytes, both ways. */
const HAS_U64: ReadonlySet<number> = new Set([
  VFIO_DEVICE_FEATURE_MIGRATION,
  VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
  VFIO_DEVICE_FEATURE_MIG_DATA_SIZE,
]);

/** A decoded request. */
export interface FeatureRequest {
  readonly flags: number;
  readonly input: FeatureInput;
}

/**
 * @throws SysError EINVAL for a payload that is too short, E2BIG for more ranges or a longer bitmap than are accepted
 */
export function decodeFeatureRequest(payload: Uint8Array): FeatureRequest {
  const reader = new Reader(VFIO_USER_DEVICE_FEATURE, payload);
  const argsz = reader.argsz(FEATURE_BYTES);
  const flags = reader.u32();
  const isProbe = (flags & VFIO_DEVICE_FEATURE_PROBE) !== 0;
  const needed =
    isProbe || !HAS_U64.has(flags & VFIO_DEVICE_FEATURE_MASK) ? FEATURE_BYTES : FEATURE_BYTES + 8;
  if (argsz < needed) throw refuse(errno.EINVAL, `argsz ${argsz} is less than ${needed}`);
  return { flags, input: isProbe ? {} : decodeInput(flags, reader, argsz) };
}

function decodeInput(flags: number, reader: Reader, argsz: number): FeatureInput {
  switch (flags & VFIO_DEVICE_FEATURE_MASK) {
    case VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE:
      return (flags & VFIO_DEVICE_FEATURE_SET) === 0 ? {} : { deviceState: reader.u32() };
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
      const bytes = bitmapBytes(length, pageSize);
      if (bytes > BigInt(MOST_BITMAP_BYTES) || BigInt(argsz) < bytes + BigInt(FEATURE_BYTES + REPORT_BYTES))
        throw refuse(errno.E2BIG, `the bitmap of 0x${length.toString(16)} bytes does not fit the answer`);
      return { report: { iova: at, length, pageSize, bitmap: new Uint8Array(Number(bytes)) } };
    }
    default:
      return {};
  }
}

/** Encodes a server's reply: the structure that the device filled in. */
export function encodeFeatureReply({ flags, input }: FeatureRequest, output: FeatureOutput): Uint8Array {
  const reply = (bytes: number) => head(FEATURE_BYTES + bytes, flags, bytes);
  if ((flags & VFIO_DEVICE_FEATURE_PROBE) !== 0) return reply(0).bytes;
  const { logging, report } = input;
  switch (flags & VFIO_DEVICE_FEATURE_MASK) {
    case VFIO_DEVICE_FEATURE_MIGRATION:
      return reply(8).u64(output.migrationFlags ?? 0).bytes;
    case VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE:
      return reply(8)
        .u32(output.deviceState ?? 0)
        .u32(NO_FD).bytes;
    case VFIO_DEVICE_FEATURE_MIG_DATA_SIZE:
      return reply(8).u64(output.stopCopyLength ?? 0n).bytes;
    case VFIO_DEVICE_FEATURE_DMA_LOGGING_START: {
      const { ranges, pageSize } = logging ?? { ranges: [], pageSize: 0n };
      const writer = reply(LOGGING_BYTES + RANGE_BYTES * ranges.length);
      writer
        .u64(output.pageSize ?? pageSize)
        .u32(ranges.length)
        .u32(0);
      for (const { iova: at, length } of ranges) writer.u64(at).u64(length);
      return writer.bytes;
    }
    case VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT: {
      const {
        iova: at,
        length,
        pageSize,
        bitmap,
      } = report ?? {
        iova: 0n,
        length: 0n,
        pageSize: 0n,
        bitmap: NOTHING,
      };
      return reply(REPORT_BYTES + bitmap.length)
        .u64(at)
        .u64(length)
        .u64(pageSize)
        .data(bitmap).bytes;
    }
    default:
      return reply(0).bytes;
  }
}

/**
 * Decodes a reply; adds a report's bits to the bitmap of the input.
 * @throws SysError EINVAL for a reply that is too short
 */
export function decodeFeatureReply({ flags, input }: FeatureRequest, payload: Uint8Array): FeatureOutput {
  if ((flags & VFIO_DEVICE_FEATURE_PROBE) !== 0) return {};
  const reader = new Reader(VFIO_USER_DEVICE_FEATURE, payload);
  reader.argsz(FEATURE_BYTES);
  reader.u32();
  switch (flags & VFIO_DEVICE_FEATURE_MASK) {
    case VFIO_DEVICE_FEATURE_MIGRATION:
      return { migrationFlags: Number(BigInt.asUintN(32, reader.u64())) };
    case VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE:
      // The reply to a SET contains nothing new, and some servers omit it.
      return (flags & VFIO_DEVICE_FEATURE_SET) === 0
        ? { deviceState: reader.u32() }
        : { deviceState: input.deviceState ?? 0 };
    case VFIO_DEVICE_FEATURE_MIG_DATA_SIZE:
      return { stopCopyLength: reader.u64() };
    case VFIO_DEVICE_FEATURE_DMA_LOGGING_START:
      return { pageSize: reader.left < LOGGING_BYTES ? (input.logging?.pageSize ?? 0n) : reader.u64() };
    case VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT: {
      const { length, pageSize, bitmap } = input.report as NonNullable<FeatureInput['report']>;
      reader.bytes(REPORT_BYTES);
      const bits = reader.bytes(Number(bitmapBytes(length, pageSize)));
      for (let i = 0; i < bitmap.length && i < bits.length; i++)
        bitmap[i] = (bitmap[i] as number) | (bits[i] as number);
      return {};
    }
    default:
      return {};
  }
}
