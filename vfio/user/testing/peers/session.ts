/**
 * Sessions of vfio-user as data: who says what, field by field. The peers in this folder are built from the shapes that were
 * measured of other people's programs (sizes, orders, flags, quirks), not captured from them.
 */
import {
  commandName,
  FLAG_ERROR,
  FLAG_NO_REPLY,
  TYPE_COMMAND,
  TYPE_REPLY,
  VFIO_USER_DEVICE_GET_INFO,
  VFIO_USER_DEVICE_GET_REGION_INFO,
  VFIO_USER_REGION_READ,
  VFIO_USER_VERSION,
} from '../../protocol.js';

export type Side = 'client' | 'server';

/** A message on the wire. */
export interface Frame {
  readonly from: Side;
  readonly command: number;
  /** Of the header. */
  readonly flags: number;
  readonly errno: number;
  readonly payload: Uint8Array<ArrayBuffer>;
  /** Descriptors that go along, by the names that the test gives them. */
  readonly fds: readonly string[];
  /** If not given, questions count up from 1, and an answer has that of its question. */
  readonly id?: number;
  /** Sent in two pieces, of which the first has this many bytes. */
  readonly cutAt?: number;
  /** Sent in one piece with the server's next one: one read receives both. */
  readonly isJoined?: boolean;
}

/** The server writes to an eventfd that it has been given. */
export interface Signal {
  readonly signal: string;
}

export type Line = Frame | Signal;
export type Extras = Partial<Pick<Frame, 'fds' | 'id' | 'cutAt' | 'isJoined'>>;

/** Fields one after the other: numbers are u32, bigints u64, text is UTF-8 with a zero behind it, arrays are bytes. */
export function bytes(
  ...fields: readonly (number | bigint | string | readonly number[])[]
): Uint8Array<ArrayBuffer> {
  const parts = fields.map((field): Uint8Array => {
    if (typeof field === 'number') return new Uint8Array(Uint32Array.of(field).buffer);
    if (typeof field === 'bigint') return new Uint8Array(BigUint64Array.of(field).buffer);
    return typeof field === 'string' ? Buffer.from(`${field}\0`) : Uint8Array.from(field);
  });
  return Uint8Array.from(Buffer.concat(parts));
}

/** Version 0.`minor`: two u16 in one. */
export const version = (minor: number): number => minor << 16;

const NOTHING = new Uint8Array(0);

const speaker = (from: Side) => {
  const frame = (
    flags: number,
    errno: number,
    command: number,
    payload: Uint8Array<ArrayBuffer>,
    extras: Extras,
  ): Frame => {
    return { from, command, flags, errno, payload, fds: [], ...extras };
  };
  return {
    asks: (command: number, payload = NOTHING, extras: Extras = {}) =>
      frame(TYPE_COMMAND, 0, command, payload, extras),
    /** Wants no answer. */
    posts: (command: number, payload = NOTHING, extras: Extras = {}) =>
      frame(FLAG_NO_REPLY, 0, command, payload, extras),
    answers: (command: number, payload = NOTHING, extras: Extras = {}) =>
      frame(TYPE_REPLY, 0, command, payload, extras),
    refuses: (command: number, errno: number) => frame(TYPE_REPLY | FLAG_ERROR, errno, command, NOTHING, {}),
  };
};

export const client = speaker('client');
export const server = speaker('server');

/** What our client says first. */
export const ourVersion: Frame = client.asks(
  VFIO_USER_VERSION,
  bytes(
    version(2),
    '{"capabilities":{"max_msg_fds":64,"max_data_xfer_size":1048576,"max_dma_maps":65535,"pgsizes":4096,"write_multiple":false,"twin_socket":{"supported":true}}}',
  ),
);

/** What our server answers to a client of version 0.`minor`, which proposes write_multiple or not. */
export const ourAnswer = (minor: number, hasWriteMultiple = false): Frame =>
  server.answers(
    VFIO_USER_VERSION,
    bytes(
      version(minor),
      `{"capabilities":{"max_msg_fds":16,"max_data_xfer_size":1048576,"max_dma_maps":65535,"pgsizes":4096${hasWriteMultiple ? ',"write_multiple":true' : ''}}}`,
    ),
  );

/** What is known of a device when our client has it open. */
export interface Opened {
  /** Vendor and device, as they lie in configuration space, of `configBytes`. */
  readonly id: readonly [number, number, number, number];
  readonly configBytes: bigint;
  readonly numRegions?: number;
  /** Where the answer of configuration space is cut in two. */
  readonly cutAt?: number;
}

/** Until the device is open: our client's questions, which are the same to any PCI device with a reset and 5 kinds of interrupts. */
export function opening(answer: Frame, { id, configBytes, numRegions = 9, cutAt }: Opened): readonly Line[] {
  const questions = [
    client.asks(VFIO_USER_DEVICE_GET_INFO, bytes(16, 0, 0, 0)),
    server.answers(VFIO_USER_DEVICE_GET_INFO, bytes(16, 3, numRegions, 5)),
    client.asks(VFIO_USER_DEVICE_GET_REGION_INFO, bytes(32, 0, 7, 0, 0n, 0n)),
    server.answers(VFIO_USER_DEVICE_GET_REGION_INFO, bytes(32, 3, 7, 0, configBytes, 0n)),
  ];
  return [
    ourVersion,
    answer,
    ...questions,
    client.asks(VFIO_USER_REGION_READ, bytes(0n, 7, 4)),
    server.answers(VFIO_USER_REGION_READ, bytes(0n, 7, 4, id), cutAt === undefined ? {} : { cutAt }),
    ...questions,
  ];
}

/** The whole answer about a region of which the first and the third page can be mapped. */
export const sparseRegion = (index: number, size: bigint, fd: string): Frame =>
  server.answers(
    VFIO_USER_DEVICE_GET_REGION_INFO,
    bytes(80, 0xf, index, 32, size, 0n, 1 | (1 << 16), 0, 2, 0, ...[0n, 0x1000n], ...[0x2000n, 0x1000n]),
    { fds: [fd] },
  );

/** A frame for people, by which frames are compared, too. */
export function describe(
  {
    command,
    flags,
    errno,
    payload,
  }: Pick<Frame, 'command' | 'flags' | 'errno'> & { readonly payload: Uint8Array },
  fds: number,
): string {
  const what = `${commandName(command)} flags 0x${flags.toString(16)} errno ${errno} fds ${fds}`;
  return `${what} payload ${payload.length}: ${Buffer.from(payload).toString('hex')}`;
}
