/**
 * libvfio-user as a server: its samples gpio-pci-idio-16 and shadow_ioeventfd, and a device that asks for memory by message.
 * Built from the shapes measured, not captured.
 */
import * as protocol from '../../protocol.js';
import { bytes, client, type Line, opening, server, version } from './session.js';

const CAPABILITIES =
  '{"capabilities":{"max_msg_fds":8,"max_data_xfer_size":1048576,"pgsizes":4096,"max_dma_maps":65535,"migration":{"pgsize":4096}}}';

const { VFIO_USER_DEVICE_GET_REGION_INFO: REGION } = protocol;
const { VFIO_USER_DEVICE_GET_IRQ_INFO: IRQ, VFIO_USER_DEVICE_SET_IRQS: SET_IRQS } = protocol;
const { VFIO_USER_REGION_READ: READ, VFIO_USER_REGION_WRITE: WRITE } = protocol;
const { VFIO_USER_DMA_MAP: MAP, VFIO_USER_DMA_UNMAP: UNMAP, VFIO_USER_DEVICE_RESET: RESET } = protocol;
const { VFIO_USER_DMA_READ: DMA_READ, VFIO_USER_DMA_WRITE: DMA_WRITE } = protocol;
const { VFIO_USER_DEVICE_GET_REGION_IO_FDS: IO_FDS } = protocol;
const { VFIO_USER_DEVICE_FEATURE: FEATURE } = protocol;
const { VFIO_USER_MIG_DATA_READ: DATA_READ, VFIO_USER_MIG_DATA_WRITE: DATA_WRITE } = protocol;

/** Until the device is open: 494f:0dc8, which is PCI with a reset, 9 regions, 5 kinds of interrupts. */
export const attach: readonly Line[] = opening(
  server.answers(protocol.VFIO_USER_VERSION, bytes(version(2), CAPABILITIES)),
  { id: [0x4f, 0x49, 0xc8, 0x0d], configBytes: 256n },
);

/** BAR2: 256 I/O ports. */
export const ports: readonly Line[] = [
  client.asks(REGION, bytes(32, 0, 2, 0, 0n, 0n)),
  server.answers(REGION, bytes(32, 3, 2, 0, 256n, 0n)),
];
/** What decides whether a write waits for its answer: the type of the BAR. */
export const portsType: readonly Line[] = [
  client.asks(READ, bytes(0x18n, 7, 4)),
  server.answers(READ, bytes(0x18n, 7, 4, [1, 0, 0, 0])),
];

/** All pins are high; outputs are written; more than the BAR has is refused. */
export const pins: readonly Line[] = [
  client.asks(READ, bytes(0n, 2, 1)),
  server.answers(READ, bytes(0n, 2, 1, [0xff])),
  ...portsType,
  client.asks(WRITE, bytes(0n, 2, 1, [0x1f])),
  server.answers(WRITE, bytes(0n, 2, 1)),
  client.asks(READ, bytes(0n, 2, 1)),
  server.answers(READ, bytes(0n, 2, 1, [0xe0])),
];

/** No doorbells: of a region that is there the number is 0, of one that is not EINVAL. */
export const noDoorbells: readonly Line[] = [
  client.asks(IO_FDS, bytes(16, 0, 2, 0)),
  server.answers(IO_FDS, bytes(16, 0, 2, 0)),
  client.asks(REGION, bytes(32, 0, 0, 0, 0n, 0n)),
  server.answers(REGION, bytes(32, 0, 0, 0, 0n, 0n)),
  client.asks(IO_FDS, bytes(16, 0, 0, 0)),
  server.refuses(IO_FDS, 22),
];

/** The pin's interrupt: flags are EVENTFD alone whatever the device does. It fires once. */
export const pinInterrupt: readonly Line[] = [
  client.asks(IRQ, bytes(16, 0, 0, 0)),
  server.answers(IRQ, bytes(16, 1, 0, 1)),
  client.asks(SET_IRQS, bytes(20, 0x24, 0, 0, 1), { fds: ['pin'] }),
  server.answers(SET_IRQS),
  { signal: 'pin' },
  client.asks(SET_IRQS, bytes(20, 0x11, 0, 0, 1)),
  server.answers(SET_IRQS),
  client.asks(SET_IRQS, bytes(20, 0x21, 0, 0, 0)),
  server.answers(SET_IRQS),
];

/** Replies of reset and maps are their headers; that of an unmap repeats it. */
export const sharedMemory: readonly Line[] = [
  client.asks(MAP, bytes(32, 3, 0n, 0x10_0000n, 0x4000n), { fds: ['memory'] }),
  server.answers(MAP),
  client.asks(MAP, bytes(32, 1, 0x1000n, 0x20_0000n, 0x1000n), { fds: ['memory'] }),
  server.answers(MAP),
  client.asks(UNMAP, bytes(24, 0, 0x10_0000n, 0x4000n)),
  server.answers(UNMAP, bytes(24, 0, 0x10_0000n, 0x4000n)),
  client.asks(UNMAP, bytes(24, 0, 0x20_0000n, 0x1000n)),
  server.refuses(UNMAP, 2),
];

export const refusedReset = (errno: number): readonly Line[] => [
  client.asks(RESET),
  server.refuses(RESET, errno),
];

/**
 * Memory that is not shared: the device asks for it while the client waits for the answer of the write that set it off. Its
 * ids are its own, and are those of the client's questions here.
 */
export const memoryByMessage: readonly Line[] = [
  client.asks(MAP, bytes(32, 3, 0n, 0x10_0000n, 0x2000n)),
  server.answers(MAP),
  ...portsType,
  client.asks(WRITE, bytes(8n, 2, 4, [1, 0, 0, 0])),
  server.asks(DMA_READ, bytes(0x10_0ffcn, 8n), { id: 6 }),
  client.answers(DMA_READ, bytes(0x10_0ffcn, 8n, [1, 2, 3, 4, 5, 6, 7, 8])),
  server.asks(DMA_WRITE, bytes(0x10_1000n, 4n, [9, 9, 9, 9]), { id: 6 }),
  client.answers(DMA_WRITE, bytes(0x10_1000n, 4n)),
  server.asks(DMA_READ, bytes(0x10_1ffcn, 8n), { id: 7 }),
  client.refuses(DMA_READ, 14),
  server.asks(DMA_WRITE, bytes(0x10_0000n, 1n, [7]), { id: 8 }),
  client.answers(DMA_WRITE, bytes(0x10_0000n, 1n)),
  server.answers(WRITE, bytes(8n, 2, 4)),
  client.asks(UNMAP, bytes(24, 0, 0x10_0000n, 0x2000n)),
  server.answers(UNMAP, bytes(24, 0, 0x10_0000n, 0x2000n)),
];

/** Doorbells of the ports, each of `stride` bytes: how many there are is asked first. */
function doorbells(
  stride: number,
  fds: readonly string[],
  ...entries: readonly (readonly (number | bigint)[])[]
): readonly Line[] {
  const argsz = 16 + entries.length * stride;
  return [
    client.asks(IO_FDS, bytes(16, 0, 2, 0)),
    server.answers(IO_FDS, bytes(argsz, 0, 2, entries.length)),
    client.asks(IO_FDS, bytes(argsz, 0, 2, 0)),
    server.answers(IO_FDS, bytes(argsz, 0, 2, entries.length, ...entries.flat()), { fds }),
  ];
}

/** A doorbell whose value also goes to shared memory: 48 bytes, of a type that only clients with such memory know. */
export const shadowDoorbell = doorbells(
  48,
  ['bell', 'shadow'],
  // offset, size, fd index, type, flags, index of the shadow's fd, offset in it, value
  [0x8n, 4n, 0, 2, 0, 1, 0x10n, 0n],
);

/** Plain doorbells in entries of 48 bytes: one of any value, one of 7 only; both by one descriptor. */
export const plainDoorbells = doorbells(
  48,
  ['bell'],
  [0x8n, 4n, 0, 0, 0, 0xffff_ffff, 0n, 0n],
  [0x10n, 2n, 0, 0, 1, 0xffff_ffff, 0n, 7n],
);

/** The same by the specification: 40 bytes each. */
export const specifiedDoorbells = doorbells(
  40,
  ['bell'],
  [0x8n, 4n, 0, 0, 0, 0, 0n],
  [0x10n, 2n, 0, 0, 1, 0, 7n],
);

const setState = (from: number, to: number): readonly Line[] => [
  client.asks(FEATURE, bytes(16, 0x1_0002)),
  server.answers(FEATURE, bytes(16, 0x1_0002, from, 0xffff_ffff)),
  client.asks(FEATURE, bytes(16, 0x2_0002, to, 0xffff_ffff)),
  server.answers(FEATURE, bytes(16, 0x2_0002, to, 0xffff_ffff)),
];

/** It can be moved while it runs, and does not say how much there is: what it does not know is EINVAL, also when probed. */
export const migration: readonly Line[] = [
  client.asks(FEATURE, bytes(16, 0x1_0001)),
  server.answers(FEATURE, bytes(16, 0x1_0001, 5n)),
  client.asks(FEATURE, bytes(16, 0x1_0009)),
  server.refuses(FEATURE, 22),
  client.asks(FEATURE, bytes(8, 0x4_0009)),
  server.refuses(FEATURE, 22),
];
/** What it has it refuses in a way of its own: from STOP_COPY to PRE_COPY there is no way. */
export const refusedState: readonly Line[] = [
  client.asks(FEATURE, bytes(16, 0x1_0002)),
  server.answers(FEATURE, bytes(16, 0x1_0002, 3, 0xffff_ffff)),
  client.asks(FEATURE, bytes(16, 0x2_0002, 6, 0xffff_ffff)),
  server.refuses(FEATURE, 22),
  client.asks(FEATURE, bytes(8, 0x4_0002)),
  server.answers(FEATURE, bytes(8, 0x4_0002)),
];
/** RUNNING to PRE_COPY, on to STOP_COPY in the same stream, then STOP. */
export const save: readonly Line[] = [
  ...setState(2, 6),
  client.asks(DATA_READ, bytes(108, 100)),
  server.answers(DATA_READ, bytes(12, 4, [1, 2, 3, 4])),
  ...setState(6, 3),
  client.asks(DATA_READ, bytes(108, 100)),
  server.answers(DATA_READ, bytes(10, 2, [5, 6])),
  client.asks(DATA_READ, bytes(108, 100)),
  server.answers(DATA_READ, bytes(8, 0)),
  ...setState(3, 1),
];
/** From STOP by RESUMING to RUNNING. */
export const resume: readonly Line[] = [
  ...setState(1, 4),
  client.asks(DATA_WRITE, bytes(14, 6, [1, 2, 3, 4, 5, 6])),
  server.answers(DATA_WRITE),
  ...setState(4, 2),
];
/** More than was asked for. */
export const tooMuchData: readonly Line[] = [
  ...setState(2, 3),
  client.asks(DATA_READ, bytes(10, 2)),
  server.answers(DATA_READ, bytes(12, 4, [1, 2, 3, 4])),
];
