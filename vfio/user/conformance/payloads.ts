/** Payloads as a suite sends them: every field as it likes. */
import { Writer } from '../message.js';

/** Consecutive words of 32 bits. */
export const words = (...values: readonly number[]): Uint8Array =>
  values.reduce((writer, value) => writer.u32(value), new Writer(4 * values.length)).bytes;

/** argsz, flags, index and count, which GET_INFO, GET_IRQ_INFO and GET_REGION_IO_FDS begin with. */
export const question = (argsz: number, index = 0, flags = 0, count = 0): Uint8Array =>
  words(argsz, flags, index, count);

/** VFIO_USER_DEVICE_GET_REGION_INFO */
export const regionQuestion = (argsz: number, index: number): Uint8Array =>
  words(argsz, 0, index, 0, 0, 0, 0, 0);

/** VFIO_USER_REGION_READ and VFIO_USER_REGION_WRITE */
export const access = (
  region: number,
  offset: number | bigint,
  count: number,
  data: readonly number[] = [],
): Uint8Array =>
  new Writer(16 + data.length).u64(offset).u32(region).u32(count).data(Uint8Array.from(data)).bytes;

/** VFIO_USER_DEVICE_SET_IRQS */
export const irqSet = (
  flags: number,
  index: number,
  start: number,
  count: number,
  data: readonly number[] = [],
  argsz = 20 + data.length,
): Uint8Array =>
  new Writer(20 + data.length)
    .u32(argsz)
    .u32(flags)
    .u32(index)
    .u32(start)
    .u32(count)
    .data(Uint8Array.from(data)).bytes;

/** VFIO_USER_DMA_MAP */
export const dmaMap = (
  iova: number | bigint,
  size: number | bigint,
  { offset = 0, flags = 3, argsz = 32 }: { offset?: number; flags?: number; argsz?: number } = {},
): Uint8Array => new Writer(32).u32(argsz).u32(flags).u64(offset).u64(iova).u64(size).bytes;

/** VFIO_USER_DMA_UNMAP */
export const dmaUnmap = (iova: number | bigint, size: number | bigint, argsz = 24): Uint8Array =>
  new Writer(24).u32(argsz).u32(0).u64(iova).u64(size).bytes;

/** VFIO_USER_REGION_WRITE_MULTI */
export function writeMulti(
  writes: readonly {
    readonly region: number;
    readonly offset: number;
    readonly count: number;
    readonly data: number;
  }[],
  count = writes.length,
): Uint8Array {
  const writer = new Writer(8 + 24 * writes.length).u64(count);
  for (const { region, offset, count: bytes, data } of writes)
    writer.u64(offset).u32(region).u32(bytes).u64(data);
  return writer.bytes;
}

/** VFIO_USER_DEVICE_FEATURE */
export const feature = (flags: number, argsz: number, data: Uint8Array = new Uint8Array(0)): Uint8Array =>
  new Writer(8 + data.length).u32(argsz).u32(flags).data(data).bytes;

/** VFIO_USER_VERSION; `json` is a text, or a value to make one of. */
export function version(json: unknown, major = 0, minor = 2, end = '\0'): Uint8Array {
  const text = json === undefined ? '' : `${typeof json === 'string' ? json : JSON.stringify(json)}${end}`;
  const bytes = Buffer.from(text);
  return new Writer(4 + bytes.length).u16(major).u16(minor).data(bytes).bytes;
}

/** What a client proposes that has nothing against anything. */
export const PROPOSAL = {
  capabilities: {
    max_msg_fds: 16,
    max_data_xfer_size: 1 << 20,
    max_dma_maps: 65_535,
    pgsizes: 4096,
    write_multiple: true,
  },
} as const;

/** VFIO_USER_DMA_READ and VFIO_USER_DMA_WRITE */
export const dmaAccess = (
  at: number | bigint,
  count: number | bigint,
  data: Uint8Array = new Uint8Array(0),
): Uint8Array => new Writer(16 + data.length).u64(at).u64(count).data(data).bytes;
