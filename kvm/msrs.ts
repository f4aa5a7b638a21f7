import { errno } from '../sys/errno.js';
import { SysError } from '../sys/error.js';
import type { Fd } from '../sys/fd.js';
import { ioctl, type Request } from '../sys/ioctl.js';
import { MsrEntry, Msrs } from './uapi.js';

function encodeMsrs(entries: readonly Partial<MsrEntry>[]): Uint8Array<ArrayBuffer> {
  const bytes = Msrs.encode({ nmsrs: entries.length }, entries.length * MsrEntry.size);
  entries.forEach((entry, i) => {
    MsrEntry.write(bytes, entry, Msrs.size + i * MsrEntry.size);
  });
  return bytes;
}

/** KVM stops at the first MSR that it rejects, and returns how many it processed. */
function refused(request: Request, fd: Fd, index: number): SysError {
  return new SysError({
    call: request.name,
    target: `${fd.target}, MSR 0x${index.toString(16)}`,
    errno: errno.EINVAL,
    hint: 'this KVM lacks the MSR or rejects the value; the MSRs before it in the list were processed',
  });
}

/** Reads MSRs of a vCPU, or feature MSRs of the system fd. @throws SysError EINVAL naming the first one rejected */
export function getMsrs(fd: Fd, request: Request, indices: readonly number[]): MsrEntry[] {
  const bytes = encodeMsrs(indices.map((index) => ({ index })));
  const done = ioctl(fd, request, bytes);
  if (done < indices.length) throw refused(request, fd, indices[done] as number);
  return indices.map((_, i) => MsrEntry.decode(bytes, Msrs.size + i * MsrEntry.size));
}

/** Writes MSRs of a vCPU, in order. @throws SysError EINVAL naming the first one rejected */
export function setMsrs(
  fd: Fd,
  request: Request,
  entries: readonly { readonly index: number; readonly data: bigint }[],
): void {
  const done = ioctl(fd, request, encodeMsrs(entries));
  const first = entries[done];
  if (first !== undefined) throw refused(request, fd, first.index);
}
