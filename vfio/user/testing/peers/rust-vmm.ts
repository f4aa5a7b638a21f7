/**
 * rust-vmm's vfio_user 0.1.3 as a server (a device with a BAR of which two pages can be mapped, and its gpio sample's way with
 * interrupts) and as a client (as cloud-hypervisor uses it). Built from the shapes measured, and read in its source; not
 * captured.
 */
import * as protocol from '../../protocol.js';
import { bytes, client, type Line, opening, ourAnswer, server, sparseRegion, version } from './session.js';

/** Of both sides. */
const CAPABILITIES =
  '{"capabilities":{"max_msg_fds":1,"max_data_xfer_size":1048576,"migration":{"pgsize":4096}}}';

const { VFIO_USER_VERSION: VERSION, VFIO_USER_DEVICE_RESET: RESET } = protocol;
const { VFIO_USER_DEVICE_GET_INFO: INFO, VFIO_USER_DEVICE_GET_REGION_INFO: REGION } = protocol;
const { VFIO_USER_DEVICE_GET_IRQ_INFO: IRQ, VFIO_USER_DEVICE_SET_IRQS: SET_IRQS } = protocol;
const { VFIO_USER_REGION_READ: READ, VFIO_USER_REGION_WRITE: WRITE } = protocol;
const { VFIO_USER_DMA_MAP: MAP, VFIO_USER_DMA_UNMAP: UNMAP } = protocol;

/** 0.0 whatever it is asked for. It sends the header of what was read first, and then the data. */
export const attach: readonly Line[] = opening(
  server.answers(VERSION, bytes(version(0), CAPABILITIES), { cutAt: 20 }),
  { id: [0x4f, 0x49, 0xc8, 0x0d], configBytes: 256n, cutAt: 32 },
);

/** The short answer says CAPS, and where they are, but has none. */
export const sparse: readonly Line[] = [
  client.asks(REGION, bytes(32, 0, 0, 0, 0n, 0n)),
  server.answers(REGION, bytes(80, 0xf, 0, 32, 0x4000n, 0n)),
  client.asks(REGION, bytes(80, 0, 0, 0, 0n, 0n)),
  sparseRegion(0, 0x4000n, 'memory'),
];

export const ports: readonly Line[] = [
  client.asks(REGION, bytes(32, 0, 2, 0, 0n, 0n)),
  server.answers(REGION, bytes(32, 3, 2, 0, 256n, 0n)),
];

/** ERR has no interrupt; REQ neither, which the client has by itself. What it does not support has errno 0. */
export const oddities: readonly Line[] = [
  client.asks(IRQ, bytes(16, 0, 3, 0)),
  server.answers(IRQ, bytes(16, 0, 3, 0)),
  client.asks(RESET),
  server.refuses(RESET, 0),
];

/** One descriptor in a message. Its gpio takes any that comes with EVENTFD for the one to signal, whatever the action. */
export const interrupts: readonly Line[] = [
  client.asks(IRQ, bytes(16, 0, 2, 0)),
  server.answers(IRQ, bytes(16, 1, 2, 3)),
  client.asks(SET_IRQS, bytes(20, 0x24, 2, 0, 1), { fds: ['vector 0'] }),
  server.answers(SET_IRQS),
  client.asks(SET_IRQS, bytes(20, 0x24, 2, 1, 1), { fds: ['vector 1'] }),
  server.answers(SET_IRQS),
  client.asks(SET_IRQS, bytes(20, 0x24, 2, 2, 1), { fds: ['vector 2'] }),
  server.answers(SET_IRQS),
  { signal: 'vector 1' },
];

/**
 * As a client, to the card of these tests: 9 regions are asked for at once, one after the other, and with the same 32 bytes
 * when it has room for capabilities. Its argsz of GET_INFO counts the header.
 */
export const clientSession: readonly Line[] = [
  client.asks(VERSION, bytes(version(1), CAPABILITIES), { id: 0 }),
  ourAnswer(1),
  client.asks(INFO, bytes(32, 0, 0, 0)),
  server.answers(INFO, bytes(16, 3, 9, 5)),
  client.asks(REGION, bytes(32, 0, 0, 0, 0n, 0n)),
  server.answers(REGION, bytes(32, 3, 0, 0, 0x1000n, 0n)),
  client.asks(REGION, bytes(32, 0, 1, 0, 0n, 0n)),
  server.answers(REGION, bytes(32, 0, 1, 0, 0n, 0n)),
  client.asks(REGION, bytes(32, 0, 2, 0, 0n, 0n)),
  server.answers(REGION, bytes(80, 7, 2, 0, 0x3000n, 0n)),
  client.asks(REGION, bytes(80, 0, 2, 0, 0n, 0n)),
  sparseRegion(2, 0x3000n, 'memory'),
  client.asks(REGION, bytes(32, 0, 8, 0, 0n, 0n)),
  server.answers(REGION, bytes(32, 0, 8, 0, 0n, 0n)),
  client.asks(IRQ, bytes(16, 0, 2, 0)),
  server.answers(IRQ, bytes(16, 1, 2, 4)),
  client.asks(SET_IRQS, bytes(20, 0x24, 2, 0, 2), { fds: ['vector 0', 'vector 1'] }),
  server.answers(SET_IRQS),
  client.asks(MAP, bytes(32, 3, 0x1000n, 0x10_0000n, 0x1000n), { fds: ['ram'] }),
  server.answers(MAP),
  client.asks(WRITE, bytes(0x100n, 0, 8, [0, 0, 0x10, 0, 0, 0, 0, 0])),
  server.answers(WRITE, bytes(0x100n, 0, 8)),
  client.asks(READ, bytes(0x108n, 0, 1)),
  server.answers(READ, bytes(0x108n, 0, 1, [0])),
  client.asks(UNMAP, bytes(24, 0, 0x10_0000n, 0x1000n)),
  server.answers(UNMAP, bytes(24, 0, 0x10_0000n, 0x1000n)),
  client.asks(RESET),
  server.answers(RESET),
];
