/** Captures of a NIC's frames, for tcpdump, tshark and Wireshark. */

import { closeSync, constants, fstatSync, ftruncateSync, openSync, writeSync, writevSync } from 'node:fs';
import { errno } from '../../sys/errno.js';
import { fromNodeError, SysError } from '../../sys/error.js';
import { overlay } from '../../sys/overlay.js';
import { lengthOf, sliceParts } from '../memory-parts.js';
import { SIZEOF_VIRTIO_NET_HDR_V1 } from './offloads.js';
import type { NetPort } from './port.js';

// https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-04.html, sections 4 and 5
const MAGIC_NANOSECONDS = 0xa1b2_3c4d;
const VERSION = { major: 2, minor: 4 } as const;
const LINKTYPE_ETHERNET = 1;
/** Longer than any frame: with segmentation left to the host, a frame has up to 64 KiB. */
const SNAPLEN = 262_144;
const FILE_HEADER_BYTES = 24;
const RECORD_HEADER_BYTES = 16;
const NEW_FILE_MODE = 0o600;

/**
 * A new capture file, of a kind that is read while it grows: each frame is one write to its end, by any thread of this process.
 * Frames pass in clear: the file's mode is 0600.
 */
export class PcapFile implements Disposable {
  /** The descriptor, valid until disposal. */
  readonly fd: number;
  #isOpen = true;

  /**
   * Replaces what is in the file.
   * @throws SysError of open(2) or write(2); EINVAL for what is no regular file, as writing to it might wait for a reader
   */
  constructor(path: string) {
    const { O_WRONLY, O_CREAT, O_APPEND, O_NONBLOCK } = constants;
    try {
      this.fd = openSync(path, O_WRONLY | O_CREAT | O_APPEND | O_NONBLOCK, NEW_FILE_MODE);
    } catch (error) {
      throw fromNodeError(error, 'open', path);
    }
    try {
      if (!fstatSync(this.fd).isFile()) {
        const hint = 'a capture is a regular file: to follow it, use tail -c +1 -f FILE | tshark -r -';
        throw new SysError({ call: 'open', target: path, errno: errno.EINVAL, hint });
      }
      this.#begin(path);
    } catch (error) {
      closeSync(this.fd);
      throw error;
    }
  }

  #begin(path: string): void {
    const header = new DataView(new ArrayBuffer(FILE_HEADER_BYTES));
    header.setUint32(0, MAGIC_NANOSECONDS, true);
    header.setUint16(4, VERSION.major, true);
    header.setUint16(6, VERSION.minor, true);
    header.setUint32(16, SNAPLEN, true);
    header.setUint32(20, LINKTYPE_ETHERNET, true);
    try {
      ftruncateSync(this.fd, 0);
      writeSync(this.fd, new Uint8Array(header.buffer));
    } catch (error) {
      throw fromNodeError(error, 'write', path);
    }
  }

  /** Closes the file; whoever still writes to its descriptor must have ended. */
  [Symbol.dispose](): void {
    if (this.#isOpen) closeSync(this.fd);
    this.#isOpen = false;
  }
}

/** Appends frames to a {@link PcapFile}; one for each thread. */
class PcapWriter {
  readonly #fd: number;
  readonly #header = new Uint8Array(RECORD_HEADER_BYTES);
  readonly #words = new Uint32Array(this.#header.buffer);
  readonly #failed: (error: unknown) => void;
  #hasFailed = false;

  constructor(fd: number, failed: (error: unknown) => void) {
    this.#fd = fd;
    this.#failed = failed;
  }

  /** Appends the frame of `length` bytes that begins `skip` bytes into `parts`. After a failure, it does nothing. */
  write(parts: readonly Uint8Array[], skip: number, length: number): void {
    if (this.#hasFailed || length <= 0) return;
    const now = performance.timeOrigin + performance.now(); // ms, with fractions of a microsecond
    const seconds = Math.floor(now / 1000);
    this.#words.set([seconds, Math.floor((now - 1000 * seconds) * 1e6), length, length]);
    const record = [this.#header, ...sliceParts(parts, skip, length)];
    try {
      const written = writevSync(this.#fd, record);
      if (written === RECORD_HEADER_BYTES + length) return;
      this.#fail(new SysError({ call: 'writev', target: 'the capture', errno: errno.ENOSPC }));
    } catch (error) {
      this.#fail(fromNodeError(error, 'writev', 'the capture'));
    }
  }

  #fail(error: unknown): void {
    this.#hasFailed = true;
    this.#failed(error);
  }
}

/**
 * A port whose frames are captured: those of the guest as it sends them, whether the host takes them or not, and those that it
 * receives. A data path of the kernel is refused, as its frames do not pass here. Event thread only.
 * @param fd of a {@link PcapFile} that outlives the port
 * @param failed called once when the file cannot be written any more; frames pass on
 */
export function capturedPort(port: NetPort, fd: number, failed: (error: unknown) => void): NetPort {
  const writer = new PcapWriter(fd, failed);
  const skip = port.offloads === undefined ? 0 : SIZEOF_VIRTIO_NET_HDR_V1;
  const replaced: Partial<NetPort> = {
    transmit(parts) {
      writer.write(parts, skip, lengthOf(parts) - skip);
      return port.transmit(parts);
    },
    receive(parts) {
      const length = port.receive(parts);
      writer.write(parts, skip, length - skip);
      return length;
    },
    ...(port.kernel !== undefined &&
      !('refusal' in port.kernel) && {
        kernel: { refusal: 'its frames are captured, which needs them to pass through this process' },
      }),
  };
  // Whatever else a port has is the port's.
  return overlay(port, replaced);
}
