import { copyBytes, put16 } from './bytes.js';
import { HOST_MAC } from './host.js';

// linux/if_ether.h
export const ETH_ALEN = 6;
export const ETH_HLEN = 14;
export const ETH_P_IP = 0x0800;
export const ETH_P_ARP = 0x0806;

/** Offset of the source address in a frame. */
export const SOURCE_MAC_AT = ETH_ALEN;

const BROADCAST_MAC = new Uint8Array(ETH_ALEN).fill(0xff);

/** Whether the address is a group's, which no station can send from. */
export function isGroupMac(bytes: Uint8Array, at: number): boolean {
  return (bytes[at]! & 1) !== 0;
}

export function isBroadcastMac(bytes: Uint8Array, at: number): boolean {
  return equalMac(bytes, at, BROADCAST_MAC);
}

export function isHostMac(bytes: Uint8Array, at: number): boolean {
  return equalMac(bytes, at, HOST_MAC);
}

function equalMac(bytes: Uint8Array, at: number, mac: Uint8Array): boolean {
  for (let i = 0; i < ETH_ALEN; i++) if (bytes[at + i] !== mac[i]) return false;
  return true;
}

/** Writes the Ethernet header of a frame from the host to the address in `to` at `toAt`. */
export function writeEthernet(out: Uint8Array, to: Uint8Array, toAt: number, etherType: number): void {
  copyBytes(out, 0, to, toAt, ETH_ALEN);
  copyBytes(out, SOURCE_MAC_AT, HOST_MAC, 0, ETH_ALEN);
  put16(out, 12, etherType);
}

/** Writes the Ethernet header of a broadcast frame from the host. */
export function writeEthernetBroadcast(out: Uint8Array, etherType: number): void {
  writeEthernet(out, BROADCAST_MAC, 0, etherType);
}
