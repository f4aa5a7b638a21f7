import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { Request } from '../../sys/ioctl.js';
import { MalformedReply } from './capability-chain.js';
import type { SystemFile } from './system.js';

/** Above the size of any real reply: it holds a sparse map of every second page of a 128 MiB BAR. */
export const REPLY_LIMIT = 2 ** 20;
/** The reply may grow between two calls, but not forever. */
const ROUNDS = 4;

/**
 * Calls an info ioctl until its reply fits: the kernel writes the size it needs to `argsz`, the first u32.
 * @param head the structure with its input fields set; this function sets `argsz`
 * @returns the whole reply, including the capabilities that follow the structure
 * @throws SysError of the call; EPROTO if the kernel requires more than the limit, or more on each call
 */
export function infoIoctl(file: SystemFile, request: Request, head: Uint8Array): Uint8Array {
  let size = head.length;
  for (let round = 0; round < ROUNDS; round++) {
    const reply = new Uint8Array(size);
    reply.set(head);
    const argsz = new DataView(reply.buffer);
    argsz.setUint32(0, size, true);
    file.ioctl(request, reply);
    const needed = argsz.getUint32(0, true);
    if (needed <= size) return reply;
    if (needed > REPLY_LIMIT)
      throw protocolError(request.name, file.target, `the reply is ${needed} bytes long`);
    size = needed;
  }
  throw protocolError(request.name, file.target, `the reply still grew after ${ROUNDS} calls`);
}

function protocolError(call: string, target: string, what: string): SysError {
  return new SysError({
    call,
    target,
    errno: errno.EPROTO,
    hint: `the kernel’s reply is malformed: ${what}`,
  });
}

/** Decodes a reply of the kernel. @throws SysError EPROTO, naming call and target, if it is malformed */
export function decodeReply<T>(request: Request, target: string, decode: () => T): T {
  try {
    return decode();
  } catch (error) {
    if (error instanceof MalformedReply) throw protocolError(request.name, target, error.message);
    throw error;
  }
}
