/** Frames for fuzzing: mostly well-formed, so that they come far, and wrong in one place or another. */
import fc from 'fast-check';
import { encodeMessage, Writer } from '../message.js';
import * as protocol from '../protocol.js';
import { DOORBELL, KICK, MEMORY, MSIX, REGISTERS } from './card.js';

/** A frame, and how many descriptors of which kind go along. */
export interface Frame {
  readonly bytes: Uint8Array;
  readonly fds: readonly ('memory' | 'eventfd' | 'pipe')[];
}

const u32 = fc.oneof(
  { weight: 4, arbitrary: fc.integer({ min: 0, max: 64 }) },
  { weight: 1, arbitrary: fc.constantFrom(4096, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 20) },
);
const u64 = fc.oneof(
  { weight: 4, arbitrary: fc.constantFrom(0n, 4n, 4096n, 8192n, BigInt(KICK), BigInt(DOORBELL), 0x10_0000n) },
  { weight: 1, arbitrary: fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }) },
);
const region = fc.constantFrom(REGISTERS, MEMORY, 7, 1, 9, 0xffff_ffff);
const bytes = fc.uint8Array({ maxLength: 64 });

const payloads: Readonly<Record<number, fc.Arbitrary<Uint8Array>>> = {
  [protocol.VFIO_USER_VERSION]: fc
    .tuple(
      fc.constantFrom(0, 0, 1),
      u32,
      fc.oneof(fc.json(), fc.constant('{"capabilities":{"twin_socket":{"supported":true}}}')),
    )
    .map(
      ([major, minor, json]) =>
        new Writer(5 + Buffer.byteLength(json))
          .u16(major)
          .u16(minor & 0xffff)
          .data(Buffer.from(json)).bytes,
    ),
  [protocol.VFIO_USER_DMA_MAP]: fc
    .tuple(u32, u32, u64, u64, u64)
    .map(
      ([argsz, flags, offset, at, size]) =>
        new Writer(32).u32(argsz).u32(flags).u64(offset).u64(at).u64(size).bytes,
    ),
  [protocol.VFIO_USER_DMA_UNMAP]: fc
    .tuple(u32, u32, u64, u64)
    .map(([argsz, flags, at, size]) => new Writer(24).u32(argsz).u32(flags).u64(at).u64(size).bytes),
  [protocol.VFIO_USER_DEVICE_SET_IRQS]: fc
    .tuple(
      fc.constantFrom(0x24, 0x21, 0x22, 0x11, 0xffff_ffff),
      fc.constantFrom(MSIX, 0, 4, 99),
      u32,
      u32,
      bytes,
    )
    .map(
      ([flags, index, start, count, data]) =>
        new Writer(20 + data.length).u32(20).u32(flags).u32(index).u32(start).u32(count).data(data).bytes,
    ),
  [protocol.VFIO_USER_REGION_READ]: fc
    .tuple(u64, region, u32)
    .map(([offset, index, count]) => new Writer(16).u64(offset).u32(index).u32(count).bytes),
  [protocol.VFIO_USER_REGION_WRITE]: fc.tuple(u64, region, bytes, fc.integer({ min: -1, max: 1 })).map(
    ([offset, index, data, wrong]) =>
      new Writer(16 + data.length)
        .u64(offset)
        .u32(index)
        .u32(Math.max(0, data.length + wrong))
        .data(data).bytes,
  ),
  [protocol.VFIO_USER_REGION_WRITE_MULTI]: fc
    .tuple(u64, fc.array(fc.tuple(u64, region, u32), { maxLength: 4 }))
    .map(([count, writes]) => {
      const writer = new Writer(8 + 24 * writes.length).u64(count < 8n ? BigInt(writes.length) : count);
      for (const [offset, index, size] of writes) writer.u64(offset).u32(index).u32(size).u64(0n);
      return writer.bytes;
    }),
  [protocol.VFIO_USER_DEVICE_FEATURE]: fc
    .tuple(
      u32,
      fc.constantFrom(1, 2, 6, 7, 8, 9, 0xffff),
      fc.constantFrom(0x1_0000, 0x2_0000, 0x4_0000, 0x7_0000),
      bytes,
    )
    .map(
      ([argsz, feature, flags, data]) =>
        new Writer(8 + data.length)
          .u32(argsz)
          .u32(feature | flags)
          .data(data).bytes,
    ),
};
/** argsz, flags, index, count: what all questions begin with. */
const question = fc
  .tuple(u32, u32, u32, u32)
  .map(([argsz, flags, index, count]) => new Writer(32).u32(argsz).u32(flags).u32(index).u32(count).bytes);

const commands = fc.oneof(
  { weight: 12, arbitrary: fc.integer({ min: 1, max: 18 }) },
  { weight: 1, arbitrary: fc.nat(0xffff) },
);

const flags = fc.oneof(
  { weight: 8, arbitrary: fc.constantFrom(0, protocol.FLAG_NO_REPLY) },
  { weight: 1, arbitrary: u32 },
);
const kinds = fc.constantFrom('memory', 'eventfd', 'pipe');

/** Any frame; about one in ten has a length or a byte that is wrong. */
export const frames: fc.Arbitrary<Frame> = commands
  .chain((command) =>
    fc.tuple(
      fc.constant(command),
      fc.oneof({ weight: 9, arbitrary: payloads[command] ?? question }, { weight: 1, arbitrary: bytes }),
      flags,
      fc.array(kinds, { maxLength: 3 }),
      fc.oneof(
        { weight: 12, arbitrary: fc.constant(undefined) },
        { weight: 1, arbitrary: fc.tuple(fc.nat(), fc.nat(255)) },
      ),
      fc.oneof(
        { weight: 40, arbitrary: fc.constant(0) },
        { weight: 1, arbitrary: fc.integer({ min: -20, max: 20 }) },
      ),
    ),
  )
  .map(([command, payload, flag, fds, mutation, wrong]) => {
    const message = encodeMessage({ id: payload.length, command, flags: flag }, payload);
    if (mutation !== undefined) {
      const at = mutation[0] % message.length;
      // A length in the gigabytes only ends the connection; that has tests of its own.
      if (at < 4 || at > 7) message[at] = mutation[1];
    }
    if (wrong !== 0) new DataView(message.buffer).setUint32(4, Math.max(0, message.length + wrong), true);
    return { bytes: message, fds };
  });
