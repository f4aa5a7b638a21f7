/**
 * QEMU 11.1's vfio-user-pci as a client, from its first message to the guest's driver, to the card of these tests. Built from the
 * shapes measured, not captured.
 */
import * as protocol from '../../protocol.js';
import { bytes, client, type Line, ourAnswer, server, sparseRegion, version } from './session.js';

const { VFIO_USER_DEVICE_GET_INFO: INFO, VFIO_USER_DEVICE_GET_REGION_INFO: REGION } = protocol;
const { VFIO_USER_DEVICE_GET_IRQ_INFO: IRQ, VFIO_USER_DEVICE_SET_IRQS: SET_IRQS } = protocol;
const { VFIO_USER_REGION_READ: READ, VFIO_USER_REGION_WRITE: WRITE } = protocol;
const { VFIO_USER_REGION_WRITE_MULTI: WRITE_MULTI, VFIO_USER_DEVICE_RESET: RESET } = protocol;
const { VFIO_USER_DMA_MAP: MAP, VFIO_USER_DMA_UNMAP: UNMAP, VFIO_USER_VERSION: VERSION } = protocol;
const { VFIO_USER_DMA_READ: DMA_READ, VFIO_USER_DMA_WRITE: DMA_WRITE } = protocol;

/** 214 bytes with the header; its buffer for the answer is no larger. */
const CAPABILITIES =
  '{"capabilities": {"pgsizes": 4096, "max_msg_fds": 16, "max_dma_maps": 65535, "max_data_xfer_size": 1048576, "migration": {"max_bitmap_size": 268435456, "pgsize": 4096}, "write_multiple": true}}';

export const versions: readonly Line[] = [
  client.asks(VERSION, bytes(version(0), CAPABILITIES)),
  ourAnswer(0, true),
];

/** Four maps without a pause: RAM below and above the hole with their descriptor, ROMs between them without. */
export const maps: readonly Line[] = [
  client.asks(MAP, bytes(32, 3, 0n, 0n, 0xa_0000n), { fds: ['ram'] }),
  client.asks(MAP, bytes(32, 1, 0n, 0xc_0000n, 0x2_0000n)),
  client.asks(MAP, bytes(32, 1, 0n, 0xfffc_0000n, 0x4_0000n)),
  client.asks(MAP, bytes(32, 3, 0x10_0000n, 0x10_0000n, 0x10_0000n), { fds: ['ram'] }),
  server.answers(MAP),
  server.answers(MAP),
  server.answers(MAP),
  server.answers(MAP),
];

/** What it asks, with the room it has: no answer is larger than its question but of regions. */
export const questions: readonly Line[] = [
  client.asks(INFO, bytes(16, 0, 0, 0)),
  server.answers(INFO, bytes(16, 3, 9, 5)),
  client.asks(REGION, bytes(32, 0, 0, 0, 0n, 0n)),
  server.answers(REGION, bytes(32, 3, 0, 0, 0x1000n, 0n)),
  client.asks(REGION, bytes(32, 0, 2, 0, 0n, 0n)),
  server.answers(REGION, bytes(80, 7, 2, 0, 0x3000n, 0n)),
  client.asks(REGION, bytes(80, 0, 2, 0, 0n, 0n)),
  sparseRegion(2, 0x3000n, 'card memory'),
  client.asks(REGION, bytes(32, 0, 7, 0, 0n, 0n)),
  server.answers(REGION, bytes(32, 3, 7, 0, 256n, 0n)),
  client.asks(IRQ, bytes(16, 0, 3, 0)),
  server.answers(IRQ, bytes(16, 1, 3, 0)),
  client.asks(IRQ, bytes(16, 0, 2, 0)),
  server.answers(IRQ, bytes(16, 1, 2, 4)),
  client.asks(READ, bytes(0n, 7, 256)),
  server.answers(READ, bytes(0n, 7, 256, new Array<number>(256).fill(0))),
  client.asks(RESET),
  server.answers(RESET),
];

/** MSI-X: vector 0 without an eventfd, which enables; then one for it, and one for vector 2. */
export const vectors: readonly Line[] = [
  client.asks(SET_IRQS, bytes(20, 0x24, 2, 0, 1)),
  server.answers(SET_IRQS),
  client.asks(SET_IRQS, bytes(20, 0x24, 2, 0, 1), { fds: ['vector 0'] }),
  server.answers(SET_IRQS),
  client.asks(SET_IRQS, bytes(20, 0x24, 2, 2, 1), { fds: ['vector 2'] }),
  server.answers(SET_IRQS),
];

/** The card works on RAM that it has mapped: at 1 MiB + 4 KiB of the guest, and of the file. */
export const kick: readonly Line[] = [
  client.posts(WRITE, bytes(0x100n, 0, 8, [0, 0x10, 0x10, 0, 0, 0, 0, 0])),
  client.asks(READ, bytes(0x108n, 0, 1)),
  server.answers(READ, bytes(0x108n, 0, 1, [0])),
];

/** Writes that have piled up: several in one message, answered or not. */
export const piledWrites: readonly Line[] = [
  client.asks(
    WRITE_MULTI,
    bytes(2n, 0x20n, 0, 4, [1, 1, 1, 1, 0, 0, 0, 0], 0x28n, 0, 2, [2, 2, 0, 0, 0, 0, 0, 0]),
  ),
  server.answers(WRITE_MULTI, bytes(2n)),
  client.posts(WRITE_MULTI, bytes(1n, 0x2cn, 0, 1, [3, 0, 0, 0, 0, 0, 0, 0])),
  client.asks(READ, bytes(0x20n, 0, 16)),
  server.answers(READ, bytes(0x20n, 0, 16, [1, 1, 1, 1, 0, 0, 0, 0, 2, 2, 0, 0, 3, 0, 0, 0])),
];

const kickAt = (at: number): Line =>
  client.asks(WRITE, bytes(0x100n, 0, 8, [at & 0xff, (at >> 8) & 0xff, (at >> 16) & 0xff, 0, 0, 0, 0, 0]));
const failed = (count: number): readonly Line[] => [
  client.asks(READ, bytes(0x108n, 0, 1)),
  server.answers(READ, bytes(0x108n, 0, 1, [count])),
];
const DATA = new Array<number>(64).fill(41);
const ADDED = new Array<number>(64).fill(42);

/** RAM without a descriptor: the card asks for it, while a command has come that is answered afterwards. */
export const memoryByMessage: readonly Line[] = [
  client.asks(MAP, bytes(32, 3, 0n, 0n, 0x10_0000n)),
  server.answers(MAP),
  kickAt(0x1000),
  client.asks(IRQ, bytes(16, 0, 2, 0)),
  client.answers(DMA_READ, bytes(0x1000n, 64n, DATA), { id: 1 }),
  client.answers(DMA_WRITE, bytes(0x1000n, 64n), { id: 2 }),
  server.asks(DMA_READ, bytes(0x1000n, 64n)),
  server.asks(DMA_WRITE, bytes(0x1000n, 64n, ADDED)),
  server.answers(WRITE, bytes(0x100n, 0, 8)),
  server.answers(IRQ, bytes(16, 1, 2, 4)),
  ...failed(0),
];

/** 10.2: the answer of a write is its header. */
export const writeAnsweredByHeader: readonly Line[] = [
  client.asks(MAP, bytes(32, 3, 0n, 0n, 0x10_0000n)),
  server.answers(MAP),
  kickAt(0x1000),
  client.answers(DMA_READ, bytes(0x1000n, 64n, DATA), { id: 1 }),
  client.answers(DMA_WRITE, bytes(), { id: 2 }),
  server.asks(DMA_READ, bytes(0x1000n, 64n)),
  server.asks(DMA_WRITE, bytes(0x1000n, 64n, ADDED)),
  server.answers(WRITE, bytes(0x100n, 0, 8)),
  ...failed(0),
];

/** What a client answers whose device may not master the bus (ENODEV), has the layout of 10.2 (count of 4 bytes), or no errno. */
export const memoryRefused = (answer: 'ENODEV' | 'layout of 10.2' | 'errno 0'): readonly Line[] => [
  client.asks(MAP, bytes(32, 3, 0n, 0n, 0x10_0000n)),
  server.answers(MAP),
  kickAt(0x1000),
  answer === 'layout of 10.2'
    ? client.answers(DMA_READ, bytes(0x1000n, 64, DATA), { id: 1 })
    : { ...client.refuses(DMA_READ, answer === 'ENODEV' ? 19 : 0), id: 1 },
  server.asks(DMA_READ, bytes(0x1000n, 64n)),
  server.answers(WRITE, bytes(0x100n, 0, 8)),
  ...failed(1),
];

/** Firmware writes to what it has shadowed: the ROM's map goes, and comes again as RAM. At last all of it goes at once. */
export const remap: readonly Line[] = [
  client.asks(UNMAP, bytes(24, 0, 0xc_0000n, 0x2_0000n)),
  server.answers(UNMAP, bytes(24, 0, 0xc_0000n, 0x2_0000n)),
  client.asks(MAP, bytes(32, 3, 0xc_0000n, 0xc_0000n, 0x2_0000n), { fds: ['ram'] }),
  server.answers(MAP),
  client.asks(UNMAP, bytes(24, 0, 0xc_0000n, 0x1000n)),
  server.refuses(UNMAP, 22),
  client.asks(UNMAP, bytes(24, 2, 0n, 0n)),
  server.answers(UNMAP, bytes(24, 2, 0n, 0n)),
];
