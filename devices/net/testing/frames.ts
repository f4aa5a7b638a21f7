// Frame builders and a strict decoder for tests: plain, slow, and sharing no code with the code under test.

export const GUEST_MAC = '52:54:00:12:34:56';
export const PEER_MAC = '02:00:0a:00:02:02';
export const BROADCAST = 'ff:ff:ff:ff:ff:ff';
export const GUEST = '10.0.2.15';
export const PEER = '10.0.2.2';

/** Numbers as `[value, bytes]`, big-endian; byte arrays as they are. */
type Piece = readonly [value: number, bytes: 1 | 2 | 4] | Uint8Array;

export function join(...pieces: Piece[]): Uint8Array {
  const bytes: number[] = [];
  for (const piece of pieces) {
    if (piece instanceof Uint8Array) bytes.push(...piece);
    else for (let i = piece[1] - 1; i >= 0; i--) bytes.push(Math.floor(piece[0] / 256 ** i) % 256);
  }
  return Uint8Array.from(bytes);
}

export const mac = (text: string): Uint8Array =>
  Uint8Array.from(text.split(':'), (byte) => Number.parseInt(byte, 16));
export const ip = (text: string): Uint8Array => Uint8Array.from(text.split('.'), Number);
const macText = (bytes: Uint8Array) =>
  Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join(':');
const ipText = (bytes: Uint8Array) => bytes.join('.');

/** RFC 1071 literally: 16-bit words, with the carry added at each step. */
export function inetChecksum(bytes: Uint8Array): number {
  let sum = 0;
  for (let i = 0; i < bytes.length; i += 2) {
    sum += bytes[i]! * 256 + (i + 1 < bytes.length ? bytes[i + 1]! : 0);
    if (sum > 0xffff) sum -= 0xffff;
  }
  return 0xffff - sum;
}

/** A copy of `bytes` with the checksum over it (and `prefix`) stored at `at`, which holds zeros. */
function sealed(bytes: Uint8Array, at: number, prefix: Uint8Array = new Uint8Array()): Uint8Array {
  const sum = inetChecksum(join(prefix, bytes));
  return join(bytes.slice(0, at), [sum, 2], bytes.slice(at + 2));
}

export interface EthernetFields {
  to?: string;
  from?: string;
  type?: number;
}

export function ethernet(payload: Uint8Array, fields: EthernetFields = {}): Uint8Array {
  return join(mac(fields.to ?? PEER_MAC), mac(fields.from ?? GUEST_MAC), [fields.type ?? 0x0800, 2], payload);
}

export interface Ipv4Fields extends EthernetFields {
  source?: string;
  destination?: string;
  options?: Uint8Array;
  fragment?: number;
  version?: number;
  ihl?: number;
  totalBytes?: number;
  checksum?: number;
  padding?: number;
}

/** A complete frame with an IPv4 payload. */
export function ipv4(protocol: number, payload: Uint8Array, fields: Ipv4Fields = {}): Uint8Array {
  const options = fields.options ?? new Uint8Array();
  const ihl = fields.ihl ?? 5 + options.length / 4;
  const header = join(
    [(fields.version ?? 4) * 16 + ihl, 1],
    [0, 1],
    [fields.totalBytes ?? 20 + options.length + payload.length, 2],
    [0x1234, 2],
    [fields.fragment ?? 0x4000, 2],
    [61, 1],
    [protocol, 1],
    [0, 2],
    ip(fields.source ?? GUEST),
    ip(fields.destination ?? PEER),
    options,
  );
  const whole =
    fields.checksum === undefined
      ? sealed(header, 10)
      : join(header.slice(0, 10), [fields.checksum, 2], header.slice(12));
  return ethernet(join(whole, payload, new Uint8Array(fields.padding ?? 0)), fields);
}

function pseudo(fields: Ipv4Fields, protocol: number, length: number): Uint8Array {
  return join(ip(fields.source ?? GUEST), ip(fields.destination ?? PEER), [protocol, 2], [length, 2]);
}

export interface IcmpFields extends Ipv4Fields {
  icmpType?: number;
  code?: number;
  id?: number;
  sequence?: number;
  icmpChecksum?: number;
}

export function icmpEcho(data: Uint8Array, fields: IcmpFields = {}): Uint8Array {
  const body = join(
    [fields.icmpType ?? 8, 1],
    [fields.code ?? 0, 1],
    [0, 2],
    [fields.id ?? 0x77, 2],
    [fields.sequence ?? 1, 2],
    data,
  );
  const whole =
    fields.icmpChecksum === undefined
      ? sealed(body, 2)
      : join(body.slice(0, 2), [fields.icmpChecksum, 2], body.slice(4));
  return ipv4(1, whole, fields);
}

export interface UdpFields extends Ipv4Fields {
  sourcePort?: number;
  port?: number;
  udpBytes?: number;
  udpChecksum?: number;
}

export function udp(data: Uint8Array, fields: UdpFields = {}): Uint8Array {
  const bytes = fields.udpBytes ?? 8 + data.length;
  const body = join(
    [fields.sourcePort ?? 40_000, 2],
    [fields.port ?? 7, 2],
    [bytes, 2],
    [fields.udpChecksum ?? 0, 2],
    data,
  );
  return ipv4(
    17,
    fields.udpChecksum === undefined ? sealed(body, 6, pseudo(fields, 17, bytes)) : body,
    fields,
  );
}

export interface TcpFields extends Ipv4Fields {
  sourcePort?: number;
  port?: number;
  seq?: number;
  ack?: number;
  flags?: string;
  window?: number;
  tcpOptions?: Uint8Array;
  dataOffset?: number;
  tcpChecksum?: number;
}

const FLAGS = ['FIN', 'SYN', 'RST', 'PSH', 'ACK', 'URG', 'ECE', 'CWR'];

/** @param fields `flags` are words: `SYN ACK` */
export function tcp(data: Uint8Array, fields: TcpFields = {}): Uint8Array {
  const options = fields.tcpOptions ?? new Uint8Array();
  const words = (fields.flags ?? 'ACK').split(' ').filter((word) => word !== '');
  const body = join(
    [fields.sourcePort ?? 40_000, 2],
    [fields.port ?? 7, 2],
    [fields.seq ?? 0, 4],
    [fields.ack ?? 0, 4],
    [(fields.dataOffset ?? 5 + options.length / 4) * 16, 1],
    [words.reduce((bits, word) => bits + 2 ** FLAGS.indexOf(word), 0), 1],
    [fields.window ?? 65_535, 2],
    [fields.tcpChecksum ?? 0, 2],
    [0, 2],
    options,
    data,
  );
  return ipv4(
    6,
    fields.tcpChecksum === undefined ? sealed(body, 16, pseudo(fields, 6, body.length)) : body,
    fields,
  );
}

export interface ArpFields extends EthernetFields {
  operation?: number;
  hardware?: number;
  senderMac?: string;
  senderIp?: string;
  targetIp?: string;
}

export function arp(fields: ArpFields = {}): Uint8Array {
  const body = join(
    [fields.hardware ?? 1, 2],
    [0x0800, 2],
    [6, 1],
    [4, 1],
    [fields.operation ?? 1, 2],
    mac(fields.senderMac ?? GUEST_MAC),
    ip(fields.senderIp ?? GUEST),
    new Uint8Array(6),
    ip(fields.targetIp ?? PEER),
  );
  return ethernet(body, { to: BROADCAST, ...fields, type: 0x0806 });
}

export interface DhcpFields extends UdpFields {
  xid?: number;
  flags?: number;
  ciaddr?: string;
  giaddr?: string;
  chaddr?: string;
  hlen?: number;
  op?: number;
  cookie?: number;
  /** Options by code; `raw` replaces them all, end mark included. */
  dhcpOptions?: Readonly<Record<number, Uint8Array>>;
  raw?: Uint8Array;
}

export function dhcp(type: number, fields: DhcpFields = {}): Uint8Array {
  const pieces: Piece[] = [];
  for (const [code, value] of Object.entries({ 53: Uint8Array.of(type), ...fields.dhcpOptions })) {
    pieces.push([Number(code), 1], [value.length, 1], value);
  }
  const body = join(
    [fields.op ?? 1, 1],
    [1, 1],
    [fields.hlen ?? 6, 1],
    [0, 1],
    [fields.xid ?? 0xdecafbad, 4],
    [3, 2],
    [fields.flags ?? 0, 2],
    ip(fields.ciaddr ?? '0.0.0.0'),
    new Uint8Array(8),
    ip(fields.giaddr ?? '0.0.0.0'),
    mac(fields.chaddr ?? GUEST_MAC),
    new Uint8Array(10 + 64 + 128),
    [fields.cookie ?? 0x63825363, 4],
    fields.raw ?? join(...pieces, [255, 1]),
  );
  const broadcast = { to: BROADCAST, source: '0.0.0.0', destination: '255.255.255.255' };
  return udp(body, { sourcePort: 68, port: 67, ...broadcast, ...fields });
}

export interface DecodedTcp {
  readonly kind: 'tcp';
  readonly sourcePort: number;
  readonly port: number;
  readonly seq: number;
  readonly ack: number;
  readonly flags: string;
  readonly window: number;
  readonly mss: number | undefined;
  readonly data: Uint8Array;
}

export interface DecodedDhcp {
  readonly op: number;
  readonly xid: number;
  readonly flags: number;
  readonly ciaddr: string;
  readonly yiaddr: string;
  readonly chaddr: string;
  readonly options: Readonly<Record<number, Uint8Array>>;
}

export interface DecodedUdp {
  readonly kind: 'udp';
  readonly sourcePort: number;
  readonly port: number;
  readonly data: Uint8Array;
  readonly dhcp: DecodedDhcp | undefined;
}

export interface DecodedIcmp {
  readonly kind: 'icmp';
  readonly type: number;
  readonly code: number;
  readonly rest: Uint8Array;
}

export interface DecodedArp {
  readonly kind: 'arp';
  readonly operation: number;
  readonly senderMac: string;
  readonly senderIp: string;
  readonly targetMac: string;
  readonly targetIp: string;
}

export interface Decoded<Body> {
  readonly to: string;
  readonly source: string;
  readonly destination: string;
  readonly body: Body;
}

export type Body = DecodedArp | DecodedIcmp | DecodedUdp | DecodedTcp;

function must(condition: boolean, what: string): asserts condition {
  if (!condition) throw new Error(`the host sent a bad frame: ${what}`);
}

/** Decodes a frame from the host. @throws Error if any field, length or checksum violates the RFCs */
export function decode(frame: Uint8Array): Decoded<Body> {
  must(frame.length >= 14, 'shorter than an Ethernet header');
  const view = new DataView(frame.buffer, frame.byteOffset, frame.length);
  const to = macText(frame.slice(0, 6));
  must(macText(frame.slice(6, 12)) === PEER_MAC, 'not from the host');
  must(to === BROADCAST || (frame[0]! & 1) === 0, 'sent to a group');
  if (view.getUint16(12) === 0x0806) {
    must(frame.length === 42, 'ARP length');
    must(macText(frame.slice(14, 20)) === '00:01:08:00:06:04', 'ARP types');
    const body: DecodedArp = {
      kind: 'arp',
      operation: view.getUint16(20),
      senderMac: macText(frame.slice(22, 28)),
      senderIp: ipText(frame.slice(28, 32)),
      targetMac: macText(frame.slice(32, 38)),
      targetIp: ipText(frame.slice(38, 42)),
    };
    return { to, source: body.senderIp, destination: body.targetIp, body };
  }
  must(view.getUint16(12) === 0x0800, 'EtherType');
  must(frame.length >= 34 && frame[14] === 0x45, 'IPv4 version and header length');
  must(view.getUint16(16) === frame.length - 14, 'IPv4 total length');
  must(inetChecksum(frame.slice(14, 34)) === 0, 'IPv4 checksum');
  must((view.getUint16(20) & 0xbfff) === 0, 'IPv4 fragment');
  must(frame[22]! > 0, 'TTL');
  const source = ipText(frame.slice(26, 30));
  must(source === PEER, 'IPv4 source');
  const destination = ipText(frame.slice(30, 34));
  const payload = frame.slice(34);
  const prefix = join(frame.slice(26, 34), [frame[23]!, 2], [payload.length, 2]);
  const bodies: Record<number, () => Body> = {
    1: () => decodeIcmp(payload),
    6: () => decodeTcp(payload, prefix),
    17: () => decodeUdp(payload, prefix),
  };
  const decodeBody = bodies[frame[23]!];
  must(decodeBody !== undefined, 'IPv4 protocol');
  return { to, source, destination, body: decodeBody() };
}

function decodeIcmp(payload: Uint8Array): DecodedIcmp {
  must(payload.length >= 8, 'ICMP length');
  must(inetChecksum(payload) === 0, 'ICMP checksum');
  return { kind: 'icmp', type: payload[0]!, code: payload[1]!, rest: payload.slice(4) };
}

function decodeUdp(payload: Uint8Array, prefix: Uint8Array): DecodedUdp {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.length);
  must(payload.length >= 8 && view.getUint16(4) === payload.length, 'UDP length');
  must(view.getUint16(6) !== 0, 'UDP without a checksum');
  must(inetChecksum(join(prefix, payload)) === 0, 'UDP checksum');
  const data = payload.slice(8);
  const port = view.getUint16(2);
  return {
    kind: 'udp',
    sourcePort: view.getUint16(0),
    port,
    data,
    dhcp: port === 68 ? decodeDhcp(data) : undefined,
  };
}

function decodeDhcp(data: Uint8Array): DecodedDhcp {
  must(data.length >= 300 && data.length <= 548, 'DHCP length');
  const view = new DataView(data.buffer, data.byteOffset, data.length);
  must(view.getUint32(236) === 0x63825363, 'DHCP cookie');
  const options: Record<number, Uint8Array> = {};
  let at = 240;
  while (data[at] !== 255) {
    must(at + 2 <= data.length && at + 2 + data[at + 1]! < data.length, 'DHCP option length');
    options[data[at]!] = data.slice(at + 2, at + 2 + data[at + 1]!);
    at += 2 + data[at + 1]!;
  }
  must(
    data.slice(at + 1).every((byte) => byte === 0),
    'bytes after the DHCP end mark',
  );
  return {
    op: data[0]!,
    xid: view.getUint32(4),
    flags: view.getUint16(10),
    ciaddr: ipText(data.slice(12, 16)),
    yiaddr: ipText(data.slice(16, 20)),
    chaddr: macText(data.slice(28, 34)),
    options,
  };
}

function decodeTcp(payload: Uint8Array, prefix: Uint8Array): DecodedTcp {
  must(payload.length >= 20, 'TCP length');
  must(inetChecksum(join(prefix, payload)) === 0, 'TCP checksum');
  const view = new DataView(payload.buffer, payload.byteOffset, payload.length);
  const headerBytes = (payload[12]! >>> 4) * 4;
  must((headerBytes === 20 || headerBytes === 24) && headerBytes <= payload.length, 'TCP data offset');
  must(view.getUint16(18) === 0 && (payload[12]! & 15) === 0, 'TCP urgent pointer or reserved bits');
  const flags = FLAGS.filter((_, bit) => (payload[13]! & (1 << bit)) !== 0).join(' ');
  must(headerBytes === 20 || (flags === 'SYN ACK' && view.getUint16(20) === 0x0204), 'TCP options');
  return {
    kind: 'tcp',
    sourcePort: view.getUint16(0),
    port: view.getUint16(2),
    seq: view.getUint32(4),
    ack: view.getUint32(8),
    flags,
    window: view.getUint16(14),
    mss: headerBytes === 24 ? view.getUint16(22) : undefined,
    data: payload.slice(headerBytes),
  };
}
