/**
 * QEMU 10.2's x-vfio-user-server with an NVMe controller 1b36:0010. Built from the shapes measured, not captured.
 */
import * as protocol from '../../protocol.js';
import { bytes, client, type Line, opening, server, version } from './session.js';

const CAPABILITIES =
  '{"capabilities":{"max_msg_fds":8,"max_data_xfer_size":1048576,"pgsizes":4096,"migration":{"pgsize":4096,"max_bitmap_size":268435456}}}';

const { VFIO_USER_DEVICE_GET_REGION_INFO: REGION } = protocol;
const { VFIO_USER_DEVICE_GET_IRQ_INFO: IRQ, VFIO_USER_DEVICE_SET_IRQS: SET_IRQS } = protocol;
const { VFIO_USER_REGION_READ: READ, VFIO_USER_REGION_WRITE: WRITE } = protocol;

/** It answers minor 1 to 2, and has a tenth region, of no size: migration as it was. */
export const attach: readonly Line[] = opening(
  server.answers(protocol.VFIO_USER_VERSION, bytes(version(1), CAPABILITIES)),
  { id: [0x36, 0x1b, 0x10, 0x00], configBytes: 4096n, numRegions: 10 },
);

export const regions: readonly Line[] = [
  client.asks(REGION, bytes(32, 0, 0, 0, 0n, 0n)),
  server.answers(REGION, bytes(32, 3, 0, 0, 0x4000n, 0n)),
  client.asks(REGION, bytes(32, 0, 6, 0, 0n, 0n)),
  server.answers(REGION, bytes(32, 1, 6, 0, 0x4_0000n, 0n)),
  client.asks(REGION, bytes(32, 0, 9, 0, 0n, 0n)),
  server.answers(REGION, bytes(32, 0, 9, 0, 0n, 0n)),
];

/** A BAR answers when it has an address and memory decoding is on: EINVAL before. */
export const bar: readonly Line[] = [
  client.asks(READ, bytes(0n, 0, 4)),
  server.refuses(READ, 22),
  client.asks(WRITE, bytes(0x10n, 7, 4, [0, 0, 0, 0xe0])),
  server.answers(WRITE, bytes(0x10n, 7, 4)),
  client.asks(WRITE, bytes(0x4n, 7, 2, [6, 0])),
  server.answers(WRITE, bytes(0x4n, 7, 2)),
  client.asks(READ, bytes(0n, 0, 4)),
  server.answers(READ, bytes(0n, 0, 4, [0xff, 0x07, 0x01, 0x0f])),
];

/** Its own table decides whether an interrupt comes: it is written as any part of the BAR, and such writes are not answered. */
export const msix: readonly Line[] = [
  client.asks(IRQ, bytes(16, 0, 2, 0)),
  server.answers(IRQ, bytes(16, 1, 2, 65)),
  client.asks(SET_IRQS, bytes(20, 0x24, 2, 0, 1), { fds: ['vector 0'] }),
  server.answers(SET_IRQS),
  client.asks(READ, bytes(0x10n, 7, 4)),
  server.answers(READ, bytes(0x10n, 7, 4, [4, 0, 0, 0xe0])),
  client.posts(WRITE, bytes(0x200cn, 0, 4, [0, 0, 0, 0])),
  { signal: 'vector 0' },
];
