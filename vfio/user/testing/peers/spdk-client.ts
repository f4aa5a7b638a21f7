/**
 * SPDK's NVMe driver (trtype:VFIOUSER) as a client, to the card of these tests. Built from the shapes measured, not captured: its
 * messages all have id 0, it has no JSON, asks for regions with a payload of 4064 bytes, and sends a descriptor along where
 * none is wanted.
 */
import * as protocol from '../../protocol.js';
import { bytes, client, type Line, ourAnswer, server, sparseRegion, version } from './session.js';

const { VFIO_USER_DEVICE_GET_INFO: INFO, VFIO_USER_DEVICE_GET_REGION_INFO: REGION } = protocol;
const { VFIO_USER_REGION_READ: READ, VFIO_USER_REGION_WRITE: WRITE } = protocol;
const { VFIO_USER_DMA_MAP: MAP, VFIO_USER_DMA_UNMAP: UNMAP, VFIO_USER_VERSION: VERSION } = protocol;

const PADDING = new Array<number>(4064 - 32).fill(0);

export const clientSession: readonly Line[] = [
  client.asks(VERSION, bytes(version(1)), { id: 0 }),
  ourAnswer(1),
  client.asks(INFO, bytes(16, 0, 0, 0), { id: 0 }),
  server.answers(INFO, bytes(16, 3, 9, 5)),
  client.asks(REGION, bytes(4064, 0, 0, 0, 0n, 0n, PADDING), { id: 0 }),
  server.answers(REGION, bytes(32, 3, 0, 0, 0x1000n, 0n)),
  client.asks(REGION, bytes(4064, 0, 2, 0, 0n, 0n, PADDING), { id: 0 }),
  sparseRegion(2, 0x3000n, 'card memory'),
  client.asks(MAP, bytes(32, 3, 0n, 0x10_0000n, 0x2000n), { id: 0, fds: ['ram'] }),
  server.answers(MAP),
  client.asks(WRITE, bytes(0x100n, 0, 8, [0, 0, 0x10, 0, 0, 0, 0, 0]), { id: 0 }),
  server.answers(WRITE, bytes(0x100n, 0, 8)),
  client.asks(READ, bytes(0x108n, 0, 4), { id: 0 }),
  server.answers(READ, bytes(0x108n, 0, 4, [0, 0, 0, 0])),
  client.asks(UNMAP, bytes(24, 0, 0x10_0000n, 0x2000n), { id: 0, fds: ['ram'] }),
  server.answers(UNMAP, bytes(24, 0, 0x10_0000n, 0x2000n)),
];
