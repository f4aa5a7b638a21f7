/** What a serial line's two ends share: the registers (machine thread), and the host's file (event thread). */
import { type ByteChannelBuffer, createByteChannel } from './byte-channel.js';

/** Memory that a port's registers and its host line share. It outlives both: unread bytes stay for the next ones. */
export interface LineBuffers {
  /** Bytes from the guest. */
  readonly sent: ByteChannelBuffer;
  /** Bytes to the guest. */
  readonly received: ByteChannelBuffer;
  /** Int32 [0]: 1 while a peer is connected. */
  readonly carrier: SharedArrayBuffer;
}

export const createLineBuffers = (): LineBuffers => ({
  sent: createByteChannel(),
  received: createByteChannel(),
  carrier: new SharedArrayBuffer(4),
});

/**
 * The host's end of a port: a pseudo terminal, a connection to the listening socket `path`, a socket of our own that
 * listens at `path`, or a file that the guest's output is written to.
 */
export interface HostEnd {
  readonly kind: 'pty' | 'connect' | 'listen' | 'file';
  readonly path: string;
}

/** An open end as plain data, for another thread. Its owner closes the descriptors after the last use. */
export interface HostEndNumbers {
  readonly kind: HostEnd['kind'];
  /** Path of the terminal, the socket or the file: `/dev/pts/3`. */
  readonly address: string;
  /** Nonblocking; -1 for a socket that listens, whose client has one. */
  readonly fd: number;
  /** A duplicate for waiting until it is writable, because a descriptor has one watch. */
  readonly writableFd: number;
  /** Becomes readable when a process opens the other side; -1 if none can. */
  readonly arrivals: number;
  /** Int32 [0] fd, [1] writableFd of the client of a socket that listens; -1 without one. Its owner closes these, too. */
  readonly client: SharedArrayBuffer;
}
