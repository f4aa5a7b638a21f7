/** MAC address of the virtual host: locally administered, with its IPv4 address in the low bytes. */
export const HOST_MAC: Uint8Array = Uint8Array.of(0x02, 0x00, 0x0a, 0x00, 0x02, 0x02);

/** 10.0.2.2, the virtual host: the only address it answers for. */
export const HOST_IP = 0x0a000202;

/** 10.0.2.15, the address it leases to the guest. */
export const GUEST_IP = 0x0a00020f;

/** 255.255.255.0. */
export const NETMASK = 0xffffff00;

/** 10.0.2.255. */
export const SUBNET_BROADCAST = 0x0a0002ff;

/** Port of the UDP and TCP echo services. RFC 862. */
export const ECHO_PORT = 7;

/**
 * What became of a frame that reached the host: `taken` means that it was for one of its protocols (a reply
 * is queued if the protocol asks for one and the queue has room), `malformed` that a length, checksum or
 * address in it is wrong, `fragmented` that it needs reassembly, which the host does not do, `unanswered`
 * that it is sound but nobody here listens for it. Each is the name of a counter.
 */
export type Verdict = 'taken' | 'malformed' | 'fragmented' | 'unanswered';
