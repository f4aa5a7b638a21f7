/** VFIO_USER_VERSION: the negotiation that precedes all other commands. */
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { invalid, Reader, Writer } from './message.js';
import {
  DEFAULT_MAX_DATA_XFER_SIZE,
  DEFAULT_MAX_DMA_MAPS,
  DEFAULT_MAX_MSG_FDS,
  DEFAULT_PGSIZES,
  MAJOR,
  VFIO_USER_VERSION,
} from './protocol.js';

/** Capabilities of a peer: those that it announces, else the defaults. */
export interface Capabilities {
  /** Most descriptors that it accepts in one message. */
  readonly maxMsgFds: number;
  /** Most bytes of data that it accepts in one message. */
  readonly maxDataXferSize: number;
  readonly maxDmaMaps: number;
  /** Bit mask of page sizes for maps. */
  readonly pgsizes: number;
  readonly hasWriteMultiple: boolean;
  /** Present if the server's requests use a second socket; in a reply, `fdIndex` is its descriptor in the message. */
  readonly twinSocket: { readonly fdIndex: number | undefined } | undefined;
}

export interface Version {
  readonly major: number;
  readonly minor: number;
  readonly capabilities: Capabilities;
}

const DEFAULTS: Capabilities = {
  maxMsgFds: DEFAULT_MAX_MSG_FDS,
  maxDataXferSize: DEFAULT_MAX_DATA_XFER_SIZE,
  maxDmaMaps: DEFAULT_MAX_DMA_MAPS,
  pgsizes: DEFAULT_PGSIZES,
  hasWriteMultiple: false,
  twinSocket: undefined,
};
const MOST_JSON_BYTES = 4096;
const MOST_XFER = 64 << 20;
const VERSION_BYTES = 4;

/** JSON without spaces: QEMU's client refuses a reply that is longer than its own message. */
export function encodeVersion({ major, minor, capabilities }: Version, isReply: boolean): Uint8Array {
  const { maxMsgFds, maxDataXferSize, maxDmaMaps, pgsizes, hasWriteMultiple, twinSocket } = capabilities;
  const twin = twinSocket && { supported: true, ...(isReply ? { fd_index: twinSocket.fdIndex } : {}) };
  const json = JSON.stringify({
    capabilities: {
      max_msg_fds: maxMsgFds,
      max_data_xfer_size: maxDataXferSize,
      max_dma_maps: maxDmaMaps,
      pgsizes,
      // A reply has no capability that was not proposed.
      ...(isReply && !hasWriteMultiple ? {} : { write_multiple: hasWriteMultiple }),
      ...(twin === undefined ? {} : { twin_socket: twin }),
    },
  });
  return new Writer(VERSION_BYTES + json.length + 1).u16(major).u16(minor).data(Buffer.from(json)).bytes;
}

/**
 * @param isRequest a client's JSON must end with a zero byte; some servers omit it
 * @throws SysError EINVAL for malformed JSON or invalid values; ENOTSUP for another major version
 */
export function decodeVersion(payload: Uint8Array, isRequest = false): Version {
  const reader = new Reader(VFIO_USER_VERSION, payload);
  const [major, minor] = [reader.u16(), reader.u16()];
  if (major !== MAJOR) {
    const hint = `it speaks version ${major}.${minor} of vfio-user, this is version ${MAJOR}`;
    throw new SysError({ call: 'VFIO_USER_VERSION', target: 'vfio-user peer', errno: errno.ENOTSUP, hint });
  }
  const json = reader.bytes(reader.left);
  if (isRequest && json.length > 0 && json.at(-1) !== 0)
    throw invalid(VFIO_USER_VERSION, 'its version data does not end with a zero byte');
  return { major, minor, capabilities: decodeCapabilities(json) };
}

function decodeCapabilities(bytes: Uint8Array): Capabilities {
  if (bytes.length > MOST_JSON_BYTES)
    throw invalid(VFIO_USER_VERSION, `${bytes.length} bytes of version data`);
  // Some peers omit the JSON, others the terminating zero.
  const text = Buffer.from(bytes).toString('utf8').replace(/\0.*$/s, '');
  if (text === '') return DEFAULTS;
  const fields = capabilitiesOf(text);
  const number = (name: string, byDefault: number, most: number): number => {
    const value = fields[name] ?? byDefault;
    if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= most) return value;
    throw invalid(VFIO_USER_VERSION, `${name} is ${JSON.stringify(value)?.slice(0, 40)}`);
  };
  const maxMsgFds = number('max_msg_fds', DEFAULT_MAX_MSG_FDS, 0x7fff_ffff);
  const maxDataXferSize = number('max_data_xfer_size', DEFAULT_MAX_DATA_XFER_SIZE, Number.MAX_SAFE_INTEGER);
  const pgsizes = number('pgsizes', DEFAULT_PGSIZES, Number.MAX_SAFE_INTEGER);
  if (pgsizes % DEFAULT_PGSIZES !== 0)
    throw invalid(VFIO_USER_VERSION, `pgsizes is 0x${pgsizes.toString(16)}: pages of less than 4096 bytes`);
  if (maxDataXferSize === 0) throw invalid(VFIO_USER_VERSION, 'max_data_xfer_size is 0');
  const twin = fields.twin_socket as { supported?: unknown; fd_index?: unknown } | null | undefined;
  const fdIndex = typeof twin?.fd_index === 'number' ? twin.fd_index : undefined;
  return {
    maxMsgFds,
    maxDataXferSize: Math.min(maxDataXferSize, MOST_XFER),
    maxDmaMaps: number('max_dma_maps', DEFAULT_MAX_DMA_MAPS, Number.MAX_SAFE_INTEGER),
    pgsizes: pgsizes === 0 ? DEFAULT_PGSIZES : pgsizes,
    hasWriteMultiple: fields.write_multiple === true,
    twinSocket: twin?.supported === true ? { fdIndex } : undefined,
  };
}

function capabilitiesOf(text: string): Readonly<Record<string, unknown>> {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    throw invalid(VFIO_USER_VERSION, 'its version data is not JSON');
  }
  const isObject = (value: unknown): value is Record<string, unknown> =>
    typeof value === 'object' && value !== null && !Array.isArray(value);
  if (!isObject(json)) throw invalid(VFIO_USER_VERSION, 'its version data is no JSON object');
  const { capabilities = {} } = json;
  if (!isObject(capabilities)) throw invalid(VFIO_USER_VERSION, 'its capabilities are no JSON object');
  return capabilities;
}
