/**
 * SPDK's nvmf target as a server: an NVMe controller 4e58:0001 whose doorbells can be mapped. Built from the shapes measured,
 * not captured.
 */
import * as protocol from '../../protocol.js';
import { bytes, client, type Line, type Opened, opening, server, version } from './session.js';

const { VFIO_USER_DEVICE_GET_REGION_INFO: REGION } = protocol;
const { VFIO_USER_DEVICE_GET_IRQ_INFO: IRQ, VFIO_USER_DEVICE_SET_IRQS: SET_IRQS } = protocol;
const { VFIO_USER_REGION_READ: READ, VFIO_USER_VERSION: VERSION, VFIO_USER_REGION_WRITE: WRITE } = protocol;

const capabilities = (twin: string): string =>
  `{"capabilities":{"max_msg_fds":8,"max_data_xfer_size":1048576,${twin}"migration":{"pgsize":4096}}}`;

const CARD: Opened = { id: [0x58, 0x4e, 0x01, 0x00], configBytes: 4096n };

/** It has a twin socket for whoever asks for one; `attach` is to a client that does not get it. */
export const attach = opening(server.answers(VERSION, bytes(version(2), capabilities(''))), CARD);
export const attachWithTwin = opening(
  server.answers(VERSION, bytes(version(2), capabilities('"twin_socket":{"supported":true,"fd_index":0},')), {
    fds: ['twin'],
  }),
  CARD,
);

/**
 * BAR0: 16 KiB, of which the second page (doorbells) is in a file of 8 KiB. To a short question the answer says MMAP and how
 * much room it wants, and has neither capabilities nor descriptor.
 */
export const registers: readonly Line[] = [
  client.asks(REGION, bytes(32, 0, 0, 0, 0n, 0n)),
  server.answers(REGION, bytes(64, 0x7, 0, 0, 0x4000n, 0n)),
  client.asks(REGION, bytes(64, 0, 0, 0, 0n, 0n)),
  server.answers(REGION, bytes(64, 0xf, 0, 32, 0x4000n, 0n, 1 | (1 << 16), 0, 1, 0, 0x1000n, 0x1000n), {
    fds: ['doorbells'],
  }),
];

/** Doorbells by message, for who does not map them: writes wait for no answer, a read comes behind them. */
export const doorbellByMessage: readonly Line[] = [
  client.asks(READ, bytes(0x10n, 7, 4)),
  server.answers(READ, bytes(0x10n, 7, 4, [4, 0, 0, 0])),
  client.posts(WRITE, bytes(0x1000n, 0, 4, [3, 0, 0, 0])),
  client.asks(READ, bytes(0x1cn, 0, 4)),
  server.answers(READ, bytes(0x1cn, 0, 4, [1, 0, 0, 0])),
];

/** Where doorbells are mapped, a write by message is to come before them. */
export const registerWrite: readonly Line[] = [
  client.asks(WRITE, bytes(0x14n, 0, 4, [1, 0, 0x46, 0])),
  server.answers(WRITE, bytes(0x14n, 0, 4)),
];

const fdNames = (from: number, to: number): readonly string[] =>
  Array.from({ length: to - from }, (_, i) => `vector ${from + i}`);

/** 512 vectors, of which 20 get eventfds, 8 at a time; vector 3 has none, nor have 20 to 29. */
export const manyVectors: readonly Line[] = [
  client.asks(IRQ, bytes(16, 0, 2, 0)),
  server.answers(IRQ, bytes(16, 1, 2, 512)),
  ...[
    [0, 3],
    [3, 0],
    [4, 8],
    [12, 8],
    [20, 0],
  ].flatMap(([start = 0, count = 0]): Line[] => [
    client.asks(SET_IRQS, bytes(20, 0x24, 2, start, count || (start === 3 ? 1 : 10)), {
      fds: fdNames(start, start + count),
    }),
    server.answers(SET_IRQS),
  ]),
  { signal: 'vector 13' },
  client.asks(SET_IRQS, bytes(20, 0x21, 2, 0, 0)),
  server.answers(SET_IRQS),
];
