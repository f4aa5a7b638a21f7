/** MAC address of the virtual host: locally administered, with its IPv4 address in the low bytes. */
export const HOST_MAC: Uint8Array = Uint8Array.of(0x02, 0x00, 0x0a, 0x00, 0x02, 0x02);

/** 10.0.2.2, the virtual host's only address. */
export const HOST_IP = 0x0a000202;

/** 10.0.2.15, the address leased to the guest. */
export const GUEST_IP = 0x0a00020f;

/** 255.255.255.0. */
export const NETMASK = 0xffffff00;

/** 10.0.2.255. */
export const SUBNET_BROADCAST = 0x0a0002ff;

/** Port of the UDP and TCP echo services. @see RFC 862 */
export const ECHO_PORT = 7;

/**
 * Outcome for a frame sent to the host; each is the name of a counter.
 *
 * `taken`: handled by one of the host's protocols. A reply is queued if the protocol sends one and the queue has room.
 * `malformed`: a wrong length, checksum or address.
 * `fragmented`: needs reassembly, which the host does not do.
 * `unanswered`: valid, but for a protocol, port or address that the host does not serve.
 */
export type Verdict = 'taken' | 'malformed' | 'fragmented' | 'unanswered';
