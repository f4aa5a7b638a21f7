/**
 * Encodes and decodes messages and payloads. Decoders check every field, and throw SysError EINVAL for invalid ones.
 */
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { DeviceInfo, IrqInfo, RegionArea, RegionCapability } from '../uapi.js';
import {
  VFIO_REGION_INFO_CAP_SPARSE_MMAP,
  VFIO_REGION_INFO_CAP_TYPE,
  VFIO_REGION_INFO_FLAG_CAPS,
  VFIO_REGION_INFO_FLAG_MMAP,
} from '../uapi.js';
import {
  commandName,
  FLAG_ERROR,
  HEADER_BYTES,
  MAX_ADDRESS,
  TYPE_COMMAND,
  TYPE_REPLY,
  VFIO_USER_IO_FD_TYPE_IOEVENTFD,
} from './protocol.js';

/** The error for a message that violates the protocol. */
export const invalid = (command: number, hint: string): SysError =>
  new SysError({ call: commandName(command), target: 'vfio-user peer', errno: errno.EINVAL, hint });

export interface Header {
  readonly id: number;
  readonly command: number;
  /** Bytes of the message, header included. */
  readonly size: number;
  readonly flags: number;
  readonly errno: number;
}

const viewOf = (bytes: Uint8Array): DataView =>
  new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/** Encodes header and payload into one buffer. */
export function encodeMessage(
  header: { readonly id: number; readonly command: number; readonly flags: number; readonly errno?: number },
  payload: Uint8Array = new Uint8Array(0),
): Uint8Array<ArrayBuffer> {
  const message = new Uint8Array(HEADER_BYTES + payload.length);
  writeHeader(viewOf(message), { errno: 0, ...header, size: message.length });
  message.set(payload, HEADER_BYTES);
  return message;
}

export function writeHeader(view: DataView, { id, command, size, flags, errno: code }: Header): void {
  view.setUint16(0, id, true);
  view.setUint16(2, command, true);
  view.setUint32(4, size, true);
  view.setUint32(8, flags, true);
  view.setUint32(12, code, true);
}

export const encodeCommand = (id: number, command: number, payload?: Uint8Array, flags = 0): Uint8Array =>
  encodeMessage({ id, command, flags: TYPE_COMMAND | flags }, payload);
export const encodeReply = (id: number, command: number, payload?: Uint8Array): Uint8Array =>
  encodeMessage({ id, command, flags: TYPE_REPLY }, payload);
export const encodeError = (id: number, command: number, code: number): Uint8Array =>
  encodeMessage({ id, command, flags: TYPE_REPLY | FLAG_ERROR, errno: code });

/** Reads the fields of a payload in sequence. */
export class Reader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #command: number;
  #at = 0;

  constructor(command: number, bytes: Uint8Array) {
    this.#command = command;
    this.#bytes = bytes;
    this.#view = viewOf(bytes);
  }

  get left(): number {
    return this.#bytes.length - this.#at;
  }

  #take(bytes: number): number {
    if (bytes > this.left) throw invalid(this.#command, `its payload ends after ${this.#bytes.length} bytes`);
    this.#at += bytes;
    return this.#at - bytes;
  }

  u16(): number {
    return this.#view.getUint16(this.#take(2), true);
  }

  u32(): number {
    return this.#view.getUint32(this.#take(4), true);
  }

  u64(): bigint {
    return this.#view.getBigUint64(this.#take(8), true);
  }

  /** An offset or size that is exact as a number. */
  size(): number {
    const value = this.u64();
    if (value > MAX_ADDRESS) throw invalid(this.#command, `0x${value.toString(16)} is out of range`);
    return Number(value);
  }

  /** A view of the next bytes. */
  bytes(count: number): Uint8Array {
    const at = this.#take(count);
    return this.#bytes.subarray(at, at + count);
  }

  /** argsz: the sender's size of the structure and its reply. */
  argsz(atLeast: number): number {
    const argsz = this.u32();
    if (argsz < atLeast) throw invalid(this.#command, `argsz ${argsz} is less than ${atLeast}`);
    return argsz;
  }
}

/** Writes fields in sequence into a buffer of a given size. */
export class Writer {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly #view: DataView;
  #at = 0;

  constructor(size: number) {
    this.bytes = new Uint8Array(size);
    this.#view = viewOf(this.bytes);
  }

  u16(value: number): this {
    this.#view.setUint16(this.#at, value, true);
    this.#at += 2;
    return this;
  }

  u32(value: number): this {
    this.#view.setUint32(this.#at, value, true);
    this.#at += 4;
    return this;
  }

  u64(value: number | bigint): this {
    this.#view.setBigUint64(this.#at, BigInt(value), true);
    this.#at += 8;
    return this;
  }

  data(bytes: Uint8Array): this {
    this.bytes.set(bytes, this.#at);
    this.#at += bytes.length;
    return this;
  }
}

/** Bytes of the reply of VFIO_USER_DEVICE_GET_INFO. */
const DEVICE_INFO_BYTES = 16;

export const encodeDeviceInfo = ({ flags, numRegions, numIrqs }: DeviceInfo): Uint8Array =>
  new Writer(DEVICE_INFO_BYTES).u32(DEVICE_INFO_BYTES).u32(flags).u32(numRegions).u32(numIrqs).bytes;

export function decodeDeviceInfo(command: number, payload: Uint8Array): DeviceInfo {
  const reader = new Reader(command, payload);
  reader.argsz(DEVICE_INFO_BYTES);
  return { flags: reader.u32(), numRegions: reader.u32(), numIrqs: reader.u32() };
}

const REGION_INFO_BYTES = 32;
const CAPABILITY_HEADER_BYTES = 8;
const SPARSE_HEADER_BYTES = 16;
const AREA_BYTES = 16;
/** Above the areas of any device; QEMU accepts as many as fit a message. */
const MOST_AREAS = 1024;

/** A region's info in vfio-user, where `offset` is the region's start in the message's descriptor. */
export interface UserRegionInfo {
  readonly index: number;
  readonly flags: number;
  readonly size: number;
  readonly fdOffset: number;
  readonly capabilities: readonly RegionCapability[];
}

const capabilityBytes = (capability: RegionCapability): number => {
  switch (capability.id) {
    case VFIO_REGION_INFO_CAP_SPARSE_MMAP:
      return SPARSE_HEADER_BYTES + AREA_BYTES * capability.areas.length;
    case VFIO_REGION_INFO_CAP_TYPE:
      return CAPABILITY_HEADER_BYTES + 8;
    default:
      return CAPABILITY_HEADER_BYTES;
  }
};

/** Bytes of a reply with all capabilities, which is the argsz of every reply. */
export const regionInfoBytes = ({ capabilities }: Pick<UserRegionInfo, 'capabilities'>): number =>
  capabilities.reduce((sum, capability) => sum + capabilityBytes(capability), REGION_INFO_BYTES);

/** Omits capabilities that do not fit `argsz`; the client then asks again with the size in the reply. */
export function encodeRegionInfo(info: UserRegionInfo, argsz: number): Uint8Array {
  const size = regionInfoBytes(info);
  const hasCapabilities = info.capabilities.length > 0 && argsz >= size;
  const writer = new Writer(hasCapabilities ? size : REGION_INFO_BYTES);
  const flags = info.flags & ~VFIO_REGION_INFO_FLAG_CAPS;
  writer
    .u32(size)
    .u32(hasCapabilities ? flags | VFIO_REGION_INFO_FLAG_CAPS : flags)
    .u32(info.index);
  writer
    .u32(hasCapabilities ? REGION_INFO_BYTES : 0)
    .u64(info.size)
    .u64(info.fdOffset);
  if (!hasCapabilities) return writer.bytes;
  let at = REGION_INFO_BYTES;
  for (const [i, capability] of info.capabilities.entries()) {
    at += capabilityBytes(capability);
    writer
      .u16(capability.id)
      .u16(1)
      .u32(i === info.capabilities.length - 1 ? 0 : at);
    if (capability.id === VFIO_REGION_INFO_CAP_SPARSE_MMAP) {
      writer.u32(capability.areas.length).u32(0);
      for (const { offset, size: bytes } of capability.areas) writer.u64(offset).u64(bytes);
    } else if (capability.id === VFIO_REGION_INFO_CAP_TYPE) {
      writer.u32(capability.type).u32(capability.subtype);
    }
  }
  return writer.bytes;
}

/**
 * Returns `argsz`, the size that the peer requires for a complete reply. A shorter reply has no capabilities, whatever
 * its flags: rust-vmm's servers set VFIO_REGION_INFO_FLAG_CAPS even then.
 */
export function decodeRegionInfo(
  command: number,
  payload: Uint8Array,
): UserRegionInfo & { readonly argsz: number; readonly isWhole: boolean } {
  const reader = new Reader(command, payload);
  const argsz = reader.argsz(REGION_INFO_BYTES);
  const [flags, index, first] = [reader.u32(), reader.u32(), reader.u32()];
  const [size, fdOffset] = [reader.size(), reader.size()];
  const isWhole = payload.length >= argsz;
  const hasCapabilities = isWhole && (flags & VFIO_REGION_INFO_FLAG_CAPS) !== 0;
  const capabilities = hasCapabilities ? decodeCapabilities(command, payload, first, size) : [];
  return { argsz, isWhole, index, flags, size, fdOffset, capabilities };
}

function decodeCapabilities(
  command: number,
  payload: Uint8Array,
  first: number,
  regionSize: number,
): RegionCapability[] {
  const found: RegionCapability[] = [];
  // Offsets must increase, so the chain ends.
  for (let at = first, before = REGION_INFO_BYTES - 1; at !== 0; ) {
    if (at <= before || at > payload.length)
      throw invalid(command, `a capability at ${at} of ${payload.length} bytes`);
    const reader = new Reader(command, payload.subarray(at));
    const [id, version, next] = [reader.u16(), reader.u16(), reader.u32()];
    if (version === 1 && id === VFIO_REGION_INFO_CAP_SPARSE_MMAP) {
      const count = reader.u32();
      reader.u32();
      if (count > MOST_AREAS) throw invalid(command, `${count} areas in one region`);
      const areas = Array.from(
        { length: count },
        (): RegionArea => ({ offset: reader.size(), size: reader.size() }),
      );
      if (areas.some(({ offset, size }) => offset + size > regionSize))
        throw invalid(command, 'an area ends behind its region');
      found.push({ id, areas });
    } else if (version === 1 && id === VFIO_REGION_INFO_CAP_TYPE) {
      found.push({ id, type: reader.u32(), subtype: reader.u32() });
    }
    before = at;
    at = next;
  }
  return found;
}

/** Whether any part of the region can be mapped. */
export const isMappable = ({ flags }: Pick<UserRegionInfo, 'flags'>): boolean =>
  (flags & VFIO_REGION_INFO_FLAG_MMAP) !== 0;

const IRQ_INFO_BYTES = 16;

export const encodeIrqInfo = ({ flags, index, count }: IrqInfo): Uint8Array =>
  new Writer(IRQ_INFO_BYTES).u32(IRQ_INFO_BYTES).u32(flags).u32(index).u32(count).bytes;

export function decodeIrqInfo(command: number, payload: Uint8Array): IrqInfo {
  const reader = new Reader(command, payload);
  reader.argsz(IRQ_INFO_BYTES);
  return { flags: reader.u32(), index: reader.u32(), count: reader.u32() };
}

/** Encodes a request for either kind of info: argsz, flags, index, count or offset. */
export const encodeInfoRequest = (argsz: number, index: number, bytes: number): Uint8Array => {
  const writer = new Writer(bytes);
  writer.u32(argsz).u32(0).u32(index);
  return writer.bytes;
};
export const regionInfoRequest = (argsz: number, index: number): Uint8Array =>
  encodeInfoRequest(argsz, index, REGION_INFO_BYTES);
export const irqInfoRequest = (index: number): Uint8Array =>
  encodeInfoRequest(IRQ_INFO_BYTES, index, IRQ_INFO_BYTES);
export const deviceInfoRequest = (): Uint8Array => encodeInfoRequest(DEVICE_INFO_BYTES, 0, DEVICE_INFO_BYTES);
export const ioFdsRequest = (argsz: number, index: number): Uint8Array =>
  encodeInfoRequest(argsz, index, IO_FDS_BYTES);

/** Decodes a request for a region's or interrupt's info; `argsz` is the space for the reply. */
export function decodeInfoRequest(
  command: number,
  payload: Uint8Array,
  atLeast: number,
): { readonly argsz: number; readonly index: number } {
  const reader = new Reader(command, payload);
  const argsz = reader.argsz(atLeast);
  reader.u32();
  return { argsz, index: reader.u32() };
}
export const decodeRegionInfoRequest = (command: number, payload: Uint8Array) =>
  decodeInfoRequest(command, payload, REGION_INFO_BYTES);
export const decodeIrqInfoRequest = (command: number, payload: Uint8Array) =>
  decodeInfoRequest(command, payload, IRQ_INFO_BYTES);

const IO_FDS_BYTES = 16;
/** Bytes of an entry in the specification; libvfio-user's later one has eight more. */
const IO_FD_BYTES = 40;
const SHADOW_IO_FD_BYTES = 48;
const NO_DATAMATCH = 0;
const KVM_IOEVENTFD_FLAG_DATAMATCH = 1;

/** A sub-region whose writes signal descriptor number `fdIndex` of the message. */
export interface UserIoFd extends RegionArea {
  readonly fdIndex: number;
  readonly type: number;
  readonly datamatch: bigint | undefined;
}

export const ioFdsBytes = (count: number): number => IO_FDS_BYTES + IO_FD_BYTES * count;
/** @throws SysError EINVAL for flags or a count, which are the reply's */
export function decodeIoFdsRequest(
  command: number,
  payload: Uint8Array,
): { readonly argsz: number; readonly index: number } {
  const reader = new Reader(command, payload);
  const argsz = reader.argsz(IO_FDS_BYTES);
  const [flags, index, count] = [reader.u32(), reader.u32(), reader.u32()];
  if (flags !== 0 || count !== 0) throw invalid(command, `flags ${flags} and count ${count} in a request`);
  return { argsz, index };
}

/** Encodes only the number of entries if they do not fit `argsz`. */
export function encodeIoFds(index: number, ioFds: readonly UserIoFd[], argsz: number): Uint8Array {
  const size = ioFdsBytes(ioFds.length);
  const isWhole = argsz >= size;
  const writer = new Writer(isWhole ? size : IO_FDS_BYTES);
  writer.u32(size).u32(0).u32(index).u32(ioFds.length);
  if (!isWhole) return writer.bytes;
  for (const { offset, size: bytes, fdIndex, type, datamatch } of ioFds) {
    writer.u64(offset).u64(bytes).u32(fdIndex).u32(type);
    writer.u32(datamatch === undefined ? NO_DATAMATCH : KVM_IOEVENTFD_FLAG_DATAMATCH).u32(0);
    writer.u64(datamatch ?? 0n);
  }
  return writer.bytes;
}

export function decodeIoFds(
  command: number,
  payload: Uint8Array,
): { readonly argsz: number; readonly count: number; readonly ioFds: readonly UserIoFd[] } {
  const reader = new Reader(command, payload);
  const argsz = reader.argsz(IO_FDS_BYTES);
  reader.u32();
  reader.u32();
  const count = reader.u32();
  if (count > MOST_AREAS) throw invalid(command, `${count} sub-regions in one region`);
  if (count === 0 || reader.left === 0) return { argsz, count, ioFds: [] };
  const stride = reader.left >= SHADOW_IO_FD_BYTES * count ? SHADOW_IO_FD_BYTES : IO_FD_BYTES;
  const ioFds = Array.from({ length: count }, (): UserIoFd => {
    const [offset, size, fdIndex, type, flags] = [
      reader.size(),
      reader.size(),
      reader.u32(),
      reader.u32(),
      reader.u32(),
    ];
    reader.u32();
    if (stride === SHADOW_IO_FD_BYTES) reader.u64();
    const value = reader.u64();
    const isMatched = type === VFIO_USER_IO_FD_TYPE_IOEVENTFD && (flags & KVM_IOEVENTFD_FLAG_DATAMATCH) !== 0;
    return { offset, size, fdIndex, type, datamatch: isMatched ? value : undefined };
  });
  return { argsz, count, ioFds };
}
