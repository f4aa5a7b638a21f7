/** The ioctls of linux/if_tun.h, and what they bring an interface to. */
import { errnoName } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { ior, iow, type Request } from '../../sys/ioctl.js';
import { SIZEOF_VIRTIO_NET_HDR_V1, TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_USO } from './offloads.js';

// linux/if_tun.h, linux/if.h
export const IFF_TAP = 0x0002;
export const IFF_MULTI_QUEUE = 0x0100;
export const IFF_ATTACH_QUEUE = 0x0200;
export const IFF_DETACH_QUEUE = 0x0400;
export const IFF_NO_PI = 0x1000;
export const IFF_VNET_HDR = 0x4000;
export const IFNAMSIZ = 16;
export const SIZEOF_IFREQ = 40;

/** How to make a tap that a NIC with several queue pairs can have. */
export const HOW_TO_ADD_QUEUES = 'ip tuntap add dev NAME mode tap multi_queue user USER';

export const TUNSETIFF: Request = iow('TUNSETIFF', 0x54, 202, 4, {
  hints: {
    EPERM: 'needs CAP_NET_ADMIN, or a tap of this user: ip tuntap add dev NAME mode tap user USER',
    EBUSY: 'another process has it open',
    EINVAL: 'an interface of this name exists and is not a tap, or is a multi-queue tap',
  },
});

/** The same, with IFF_MULTI_QUEUE. */
export const TUNSETIFF_QUEUES: Request = iow('TUNSETIFF', 0x54, 202, 4, {
  hints: {
    EPERM: `needs CAP_NET_ADMIN, or a tap of this user: ${HOW_TO_ADD_QUEUES}`,
    EINVAL: `an interface of this name exists and is no multi-queue tap: ${HOW_TO_ADD_QUEUES}`,
    E2BIG: 'other processes have most of its queues',
  },
});

/** Attaches a queue that TUNSETQUEUE has detached, or detaches it: the kernel then gives it no frames. */
const TUNSETQUEUE = iow('TUNSETQUEUE', 0x54, 217, 4);

export const TUNGETIFF: Request = ior('TUNGETIFF', 0x54, 210, 4, {
  hints: { EBADFD: 'it has no interface yet: whoever opened /dev/net/tun has to call TUNSETIFF first' },
});
const TUNGETFEATURES = ior('TUNGETFEATURES', 0x54, 207, 4);

// What an interface keeps from its last user, and the values of a new one. Without that, the kernel hands over packets of
// 64 KiB with parts of a checksum (offloads), or only some of them (filters), or takes none (a full send buffer).
const SIZEOF_VIRTIO_NET_HDR = 10;
const INT_MAX = 0x7fff_ffff;
const TUNSETOFFLOAD = iow('TUNSETOFFLOAD', 0x54, 208, 4);
const TUNSETTXFILTER = iow('TUNSETTXFILTER', 0x54, 209, 4);
const TUNSETSNDBUF = iow('TUNSETSNDBUF', 0x54, 212, 4);
const TUNDETACHFILTER = iow('TUNDETACHFILTER', 0x54, 214, 16);
const TUNSETVNETHDRSZ = iow('TUNSETVNETHDRSZ', 0x54, 216, 4);
const int = (value: number): Uint8Array => new Uint8Array(Int32Array.of(value).buffer);
/** The flags of TUNSETIFF replace those that an earlier user gave, IFF_VNET_HDR included. */
const asNew = (headerBytes: number): readonly (readonly [Request, Uint8Array | number])[] => [
  [TUNSETOFFLOAD, 0],
  [TUNSETVNETHDRSZ, int(headerBytes)],
  [TUNSETSNDBUF, int(INT_MAX)],
  // struct tun_filter without addresses: all pass.
  [TUNSETTXFILTER, new Uint8Array(4)],
  [TUNDETACHFILTER, new Uint8Array(16)],
];

/** Sets of offloads, best first: Linux has USO from 6.2. The checksum alone is of every kernel that has headers. */
const OFFLOAD_SETS: readonly number[] = [
  TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_USO,
  TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6,
  TUN_F_CSUM,
];

/** All requests of ioctl(2) that a port makes. */
export const TAP_REQUESTS: readonly Request[] = [
  TUNSETIFF,
  TUNGETIFF,
  TUNGETFEATURES,
  TUNSETQUEUE,
  ...asNew(0).map(([request]) => request),
];

/**
 * The system calls used on a tap, so that a test can substitute a fake. `open`, `close`, `writev` and `readv` fail as
 * Node's fs does, by throwing an error with `code` and `errno`; `ioctl` returns the negative errno.
 */
export interface TapSystem {
  /** open(2): returns the descriptor. */
  open(path: string, flags: number): number;
  /** close(2). */
  close(fd: number): void;
  /** ioctl(2) with a pointer to `argument`, or with its value; returns its result, or the negative errno. */
  ioctl(fd: number, request: number, argument: Uint8Array | number): number;
  /** writev(2): returns the bytes written. */
  writev(fd: number, parts: readonly Uint8Array[]): number;
  /** readv(2): returns the bytes read. */
  readv(fd: number, parts: readonly Uint8Array[]): number;
  /** `st_rdev` of fstat(2), and 0 for what is no device. */
  deviceOf(fd: number): number;
  /** fcntl(2): returns its result, or the negative errno. */
  fcntl(fd: number, command: number, value: number): number;
}

type Ioctl = Pick<TapSystem, 'ioctl'>;

/** @throws SysError naming the tap */
export function tapIoctl(
  system: Ioctl,
  name: string,
  fd: number,
  request: Request,
  argument: Uint8Array | number,
): void {
  const result = system.ioctl(fd, request.number, argument);
  if (result >= 0) return;
  const hint = request.hints[errnoName(-result)];
  throw new SysError({ call: request.name, target: `tap ${name}`, errno: -result, hint });
}

/** Whether the kernel's taps can have a struct virtio_net_hdr before each frame. */
export function hasHeaderSupport(system: Ioctl, fd: number): boolean {
  const features = new Uint32Array(1);
  const result = system.ioctl(fd, TUNGETFEATURES.number, new Uint8Array(features.buffer));
  return result >= 0 && ((features[0] as number) & IFF_VNET_HDR) !== 0;
}

/**
 * Brings an attached tap to the state of a new one, without offloads. Returns those that it could have: 0 for one whose
 * frames have no headers.
 * @throws SysError naming the tap
 */
export function setUpTap(system: Ioctl, name: string, fd: number, hasHeaders: boolean): number {
  const offered = hasHeaders ? OFFLOAD_SETS.find((set) => setOffloads(system, fd, set)) : 0;
  for (const [request, argument] of asNew(hasHeaders ? SIZEOF_VIRTIO_NET_HDR_V1 : SIZEOF_VIRTIO_NET_HDR))
    tapIoctl(system, name, fd, request, argument);
  return offered ?? 0;
}

/** Returns false, without a change, if the kernel does not have all of the set, or the tap is gone. */
export const setOffloads = (system: Ioctl, fd: number, set: number): boolean =>
  system.ioctl(fd, TUNSETOFFLOAD.number, set) >= 0;

/** Attaches or detaches a queue of a multi-queue tap. @throws SysError naming the tap; EINVAL if it is gone */
export function attachQueue(system: Ioctl, name: string, fd: number, isAttached: boolean): void {
  const ifreq = new Uint8Array(SIZEOF_IFREQ);
  const flag = isAttached ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE;
  new DataView(ifreq.buffer).setUint16(IFNAMSIZ, flag, true);
  tapIoctl(system, name, fd, TUNSETQUEUE, ifreq);
}

/** Whether its interface is still there: without it, TUNGETIFF says EBADFD. */
export const tapIsAttached = (system: Ioctl, fd: number): boolean =>
  system.ioctl(fd, TUNGETIFF.number, new Uint8Array(SIZEOF_IFREQ)) >= 0;
