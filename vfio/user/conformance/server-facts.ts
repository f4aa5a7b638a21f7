/** What a server tells of itself and its device: rules about what it lacks are not applicable. */
import {
  VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
  VFIO_DEVICE_FEATURE_GET,
  VFIO_DEVICE_FEATURE_MIGRATION,
  VFIO_DEVICE_FEATURE_PROBE,
  VFIO_DEVICE_FEATURE_SET,
} from '../../feature.js';
import { VFIO_DEVICE_FLAGS_RESET, VFIO_PCI_CONFIG_REGION_INDEX } from '../../uapi.js';
import { decodeDeviceInfo, decodeIrqInfo, decodeRegionInfo, Reader } from '../message.js';
import {
  DEFAULT_MAX_DATA_XFER_SIZE,
  DEFAULT_MAX_MSG_FDS,
  VFIO_USER_DEVICE_FEATURE,
  VFIO_USER_DEVICE_GET_INFO,
  VFIO_USER_DEVICE_GET_IRQ_INFO,
  VFIO_USER_DEVICE_GET_REGION_INFO,
} from '../protocol.js';
import { feature, question, regionQuestion } from './payloads.js';
import { type Heard, isSuccess, type Reply, type Wire } from './wire.js';

/** Regions and kinds of interrupts that are asked for, however many there are. */
const MOST_REGIONS = 32;
const MOST_IRQS = 8;
const MOST_JSON_BYTES = 16_384;

export interface RegionFact {
  readonly index: number;
  readonly flags: number;
  readonly size: number;
}

export interface IrqFact {
  readonly index: number;
  readonly flags: number;
  readonly count: number;
}

export interface ServerFacts {
  readonly maxMsgFds: number;
  readonly maxDataXferSize: number;
  /** It announces VFIO_USER_REGION_WRITE_MULTI to a client that does. */
  readonly hasWriteMultiple: boolean;
  readonly hasReset: boolean;
  readonly numRegions: number;
  readonly numIrqs: number;
  /** Those with bytes. */
  readonly regions: readonly RegionFact[];
  /** Those with interrupts. */
  readonly irqs: readonly IrqFact[];
  /** VFIO_MIGRATION_ flags; undefined for a device that cannot be migrated. */
  readonly migration: number | undefined;
  readonly hasLogging: boolean;
}

/** A reply to VFIO_USER_VERSION. */
export interface VersionReply {
  readonly major: number;
  readonly minor: number;
  /** By name; undefined if the reply has no version data, or its data is not what the specification has. */
  readonly capabilities: Readonly<Record<string, unknown>> | undefined;
  /** What is wrong with the version data. */
  readonly problem: string | undefined;
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** undefined for a payload without a version. */
export function readVersion({ payload }: Pick<Reply, 'payload'>): VersionReply | undefined {
  if (payload.length < 4) return undefined;
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  const head = { major: view.getUint16(0, true), minor: view.getUint16(2, true) };
  const wrong = (problem: string): VersionReply => ({ ...head, capabilities: undefined, problem });
  const data = payload.subarray(4);
  if (data.length === 0) return { ...head, capabilities: undefined, problem: undefined };
  if (data.length > MOST_JSON_BYTES) return wrong(`version data of ${data.length} bytes`);
  if (data.at(-1) !== 0) return wrong('its version data does not end with a zero byte');
  let json: unknown;
  try {
    json = JSON.parse(Buffer.from(data.subarray(0, -1)).toString('utf8'));
  } catch {
    return wrong('its version data is not JSON');
  }
  const capabilities = isObject(json) ? (json.capabilities ?? {}) : undefined;
  if (!isObject(capabilities)) return wrong('its capabilities are no JSON object');
  return { ...head, capabilities, problem: undefined };
}

/** Decodes a reply; undefined if there is none, or not that one. */
export function decoded<T>(heard: Heard, decode: (reply: Reply) => T): T | undefined {
  if (!isSuccess(heard)) return undefined;
  try {
    return decode(heard.reply);
  } catch {
    return undefined;
  }
}

const numberOf = (value: unknown, byDefault: number): number =>
  typeof value === 'number' && Number.isInteger(value) && value > 0 ? value : byDefault;

/** Asks a server for what it has. What it does not answer, it has not. */
export async function survey(wire: Wire, version: Heard): Promise<ServerFacts> {
  const capabilities = decoded(version, readVersion)?.capabilities ?? {};
  const info = decoded(await wire.ask(VFIO_USER_DEVICE_GET_INFO, question(16)), ({ command, payload }) =>
    decodeDeviceInfo(command, payload),
  ) ?? { flags: 0, numRegions: 0, numIrqs: 0 };
  const regions: RegionFact[] = [];
  for (let index = 0; index < Math.min(info.numRegions, MOST_REGIONS); index++) {
    const heard = await wire.ask(VFIO_USER_DEVICE_GET_REGION_INFO, regionQuestion(32, index));
    const region = decoded(heard, ({ command, payload }) => decodeRegionInfo(command, payload));
    if (region !== undefined && region.size > 0)
      regions.push({ index, flags: region.flags, size: region.size });
  }
  const irqs: IrqFact[] = [];
  for (let index = 0; index < Math.min(info.numIrqs, MOST_IRQS); index++) {
    const heard = await wire.ask(VFIO_USER_DEVICE_GET_IRQ_INFO, question(16, index));
    const irq = decoded(heard, ({ command, payload }) => decodeIrqInfo(command, payload));
    if (irq !== undefined && irq.count > 0) irqs.push({ index, flags: irq.flags, count: irq.count });
  }
  const asked = await wire.ask(
    VFIO_USER_DEVICE_FEATURE,
    feature(VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIGRATION, 16),
  );
  const migration = decoded(asked, ({ command, payload }) => {
    const reader = new Reader(command, payload);
    reader.u64();
    return reader.u32();
  });
  const logging = await wire.ask(
    VFIO_USER_DEVICE_FEATURE,
    feature(VFIO_DEVICE_FEATURE_PROBE | VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_START, 8),
  );
  return {
    maxMsgFds: numberOf(capabilities.max_msg_fds, DEFAULT_MAX_MSG_FDS),
    maxDataXferSize: numberOf(capabilities.max_data_xfer_size, DEFAULT_MAX_DATA_XFER_SIZE),
    hasWriteMultiple: capabilities.write_multiple === true,
    hasReset: (info.flags & VFIO_DEVICE_FLAGS_RESET) !== 0,
    numRegions: info.numRegions,
    numIrqs: info.numIrqs,
    regions,
    irqs,
    migration,
    hasLogging: isSuccess(logging),
  };
}

/** A region that can be read, of at least `bytes`: the configuration space if there is one. */
export function readable({ regions }: ServerFacts, bytes = 4): RegionFact | undefined {
  const fit = regions.filter(({ size, flags }) => size >= bytes && (flags & 1) !== 0);
  return fit.find(({ index }) => index === VFIO_PCI_CONFIG_REGION_INDEX) ?? fit[0];
}
