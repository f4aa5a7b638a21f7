/** Requests of ioctl(2) that a sandboxed machine can make, by what it is configured with. */
import { DISK_REQUESTS } from '../../devices/block/image-file.js';
import { TAP_REQUESTS } from '../../devices/net/tap-setup.js';
import { VHOST_REQUESTS } from '../../devices/net/vhost-uapi.js';
import * as kvm from '../../kvm/uapi.js';
import * as vcpu from '../../kvm/uapi-vcpu.js';
import type { Request } from '../../sys/ioctl.js';
import { HOST_REQUESTS } from '../../vfio/host/index.js';
import { DMA_BUF_IOCTL_SYNC } from '../display/dma-buf.js';
import type { DeviceNeeds } from './device-needs.js';

const isRequest = (value: unknown): value is Request =>
  typeof value === 'object' && value !== null && 'number' in value && 'hints' in value;

const kvmRequests: readonly Request[] = [...Object.values(kvm), ...Object.values(vcpu)].filter(isRequest);

/** asm-generic/ioctls.h: those of terminals and pipes that Node and our serial ports use. TIOCSTI is not among them. */
const TERMINAL: Readonly<Record<string, number>> = {
  TCGETS: 0x5401,
  TCSETS: 0x5402,
  TCSETSW: 0x5403,
  TCSETSF: 0x5404,
  TIOCGPGRP: 0x540f,
  TIOCGWINSZ: 0x5413,
  FIONREAD: 0x541b,
  FIONBIO: 0x5421,
  TCGETS2: 0x802c_542a,
  TCSETS2: 0x402c_542b,
  TCSETSW2: 0x402c_542c,
  TCSETSF2: 0x402c_542d,
  TIOCGPTN: 0x8004_5430,
  TIOCSPTLCK: 0x4004_5431,
  FIONCLEX: 0x5450,
  FIOCLEX: 0x5451,
};

/** Names and numbers; KVM_RUN is the first, as it is the one that counts. */
export function ioctlsOf(
  needs: Pick<DeviceNeeds, 'hasHostDevice' | 'hasTap' | 'hasVhost' | 'hasDisk'>,
): ReadonlyMap<string, number> {
  const requests = [
    vcpu.KVM_RUN,
    ...kvmRequests,
    ...(needs.hasHostDevice ? [...HOST_REQUESTS, DMA_BUF_IOCTL_SYNC] : []),
    ...(needs.hasTap ? TAP_REQUESTS : []),
    ...(needs.hasVhost ? VHOST_REQUESTS : []),
    ...(needs.hasDisk ? DISK_REQUESTS : []),
  ];
  return new Map([
    ...requests.map(({ name, number }) => [name, number] as const),
    ...Object.entries(TERMINAL),
  ]);
}
