/** linux/vhost.h and linux/vhost_types.h: structures, requests and constants, under the same names. */
import { io, ior, iow, iowr, type Request } from '../../sys/ioctl.js';
import { struct } from '../../sys/struct.js';

const HEADER = 'linux/vhost.h';
const VHOST_VIRTIO = 0xaf;

/** Feature of vhost-net: it makes and takes the frames' headers, as its socket has none. */
export const VHOST_NET_F_VIRTIO_NET_HDR = 27;
/** Feature of vhost: pages that it writes for descriptors are logged. */
export const VHOST_F_LOG_ALL = 26;
/** Flag of a ring's addresses, as a bit number: what is written to its used ring is logged. */
export const VHOST_VRING_F_LOG = 0;
/** In place of an eventfd: none from now on. */
export const VHOST_FILE_UNBIND = -1;

export const VhostMemoryRegion = struct('struct vhost_memory_region', HEADER, {
  guest_phys_addr: 'u64',
  memory_size: 'u64',
  userspace_addr: 'u64',
  flags_padding: 'u64',
});
/** Regions follow. */
export const VhostMemory = struct('struct vhost_memory', HEADER, { nregions: 'u32', padding: 'u32' });
export const VhostVringState = struct('struct vhost_vring_state', HEADER, { index: 'u32', num: 'u32' });
export const VhostVringFile = struct('struct vhost_vring_file', HEADER, { index: 'u32', fd: 's32' });
export const VhostVringAddr = struct('struct vhost_vring_addr', HEADER, {
  index: 'u32',
  flags: 'u32',
  desc_user_addr: 'u64',
  used_user_addr: 'u64',
  avail_user_addr: 'u64',
  log_guest_addr: 'u64',
});

const SIZEOF_U64 = 8;

export const VHOST_GET_FEATURES: Request = ior('VHOST_GET_FEATURES', VHOST_VIRTIO, 0x00, SIZEOF_U64);
export const VHOST_SET_FEATURES: Request = iow('VHOST_SET_FEATURES', VHOST_VIRTIO, 0x00, SIZEOF_U64);
export const VHOST_SET_OWNER: Request = io('VHOST_SET_OWNER', VHOST_VIRTIO, 0x01, {
  hints: { EAGAIN: 'the kernel could not start its thread: RLIMIT_NPROC, or pids.max of the control group' },
});
export const VHOST_SET_MEM_TABLE: Request = iow('VHOST_SET_MEM_TABLE', VHOST_VIRTIO, 0x03, VhostMemory, {
  hints: { E2BIG: 'more regions than max_mem_regions of the module vhost' },
});
/** An address in this process, which the kernel does not compare with the log's length: see {@link KernelQueues.setLog}. */
export const VHOST_SET_LOG_BASE: Request = iow('VHOST_SET_LOG_BASE', VHOST_VIRTIO, 0x04, SIZEOF_U64);
export const VHOST_SET_VRING_NUM: Request = iow('VHOST_SET_VRING_NUM', VHOST_VIRTIO, 0x10, VhostVringState);
export const VHOST_SET_VRING_ADDR: Request = iow('VHOST_SET_VRING_ADDR', VHOST_VIRTIO, 0x11, VhostVringAddr);
export const VHOST_SET_VRING_BASE: Request = iow('VHOST_SET_VRING_BASE', VHOST_VIRTIO, 0x12, VhostVringState);
export const VHOST_GET_VRING_BASE: Request = iowr(
  'VHOST_GET_VRING_BASE',
  VHOST_VIRTIO,
  0x12,
  VhostVringState,
);
export const VHOST_SET_VRING_KICK: Request = iow('VHOST_SET_VRING_KICK', VHOST_VIRTIO, 0x20, VhostVringFile);
export const VHOST_SET_VRING_CALL: Request = iow('VHOST_SET_VRING_CALL', VHOST_VIRTIO, 0x21, VhostVringFile);
export const VHOST_SET_VRING_ERR: Request = iow('VHOST_SET_VRING_ERR', VHOST_VIRTIO, 0x22, VhostVringFile);
export const VHOST_NET_SET_BACKEND: Request = iow(
  'VHOST_NET_SET_BACKEND',
  VHOST_VIRTIO,
  0x30,
  VhostVringFile,
  { hints: { ENOTSOCK: 'the descriptor is no tap that is attached to an interface' } },
);

/** All requests of ioctl(2) that {@link VhostNet} makes. */
export const VHOST_REQUESTS: readonly Request[] = [
  VHOST_GET_FEATURES,
  VHOST_SET_FEATURES,
  VHOST_SET_OWNER,
  VHOST_SET_MEM_TABLE,
  VHOST_SET_LOG_BASE,
  VHOST_SET_VRING_NUM,
  VHOST_SET_VRING_ADDR,
  VHOST_SET_VRING_BASE,
  VHOST_GET_VRING_BASE,
  VHOST_SET_VRING_KICK,
  VHOST_SET_VRING_CALL,
  VHOST_SET_VRING_ERR,
  VHOST_NET_SET_BACKEND,
];
