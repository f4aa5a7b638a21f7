/** Offloads and the header that describes them: linux/if_tun.h and linux/virtio_net.h, under the same names. */

// Sets of offloads: the argument of TUNSETOFFLOAD
export const TUN_F_CSUM = 0x01;
export const TUN_F_TSO4 = 0x02;
export const TUN_F_TSO6 = 0x04;
export const TUN_F_USO4 = 0x20;
export const TUN_F_USO6 = 0x40;
/** UDP segmentation of both IP versions: Linux has them together, and the header cannot tell them apart. */
export const TUN_F_USO = TUN_F_USO4 | TUN_F_USO6;

/** sizeof(struct virtio_net_hdr_v1). */
export const SIZEOF_VIRTIO_NET_HDR_V1 = 12;
// Its first two bytes: flags and gso_type
const VIRTIO_NET_HDR_F_NEEDS_CSUM = 1;
const VIRTIO_NET_HDR_GSO_NONE = 0;
const VIRTIO_NET_HDR_GSO_TCPV4 = 1;
const VIRTIO_NET_HDR_GSO_TCPV6 = 4;
const VIRTIO_NET_HDR_GSO_UDP_L4 = 5;

/** The offloads that a frame with this header needs; all bits for a kind that is not known. */
export function offloadsOf(flags: number, gsoType: number): number {
  const csum = (flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) === 0 ? 0 : TUN_F_CSUM;
  switch (gsoType) {
    case VIRTIO_NET_HDR_GSO_NONE:
      return csum;
    case VIRTIO_NET_HDR_GSO_TCPV4:
      return csum | TUN_F_TSO4;
    case VIRTIO_NET_HDR_GSO_TCPV6:
      return csum | TUN_F_TSO6;
    case VIRTIO_NET_HDR_GSO_UDP_L4:
      return csum | TUN_F_USO;
    default:
      return ~0;
  }
}
