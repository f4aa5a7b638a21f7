/** VFIO_USER_DMA_READ and VFIO_USER_DMA_WRITE: a server's access to memory that it has not mapped. */
import { invalid, Reader, Writer } from '../message.js';
import { DEFAULT_MAX_DATA_XFER_SIZE, VFIO_USER_DMA_READ, VFIO_USER_DMA_WRITE } from '../protocol.js';

const ACCESS_BYTES = 16;

/** Copies between `data` and memory at an IOVA. @throws SysError EFAULT, EPERM */
export type DmaCopy = (at: bigint, data: Uint8Array, isWrite: boolean) => void;

/** Serves a request; returns the reply's payload. @throws SysError EINVAL for another command; what `copy` throws */
export function serveDma(command: number, payload: Uint8Array, copy: DmaCopy): Uint8Array {
  if (command !== VFIO_USER_DMA_READ && command !== VFIO_USER_DMA_WRITE)
    throw invalid(command, 'no request of a server');
  const reader = new Reader(command, payload);
  const [at, count] = [reader.u64(), reader.size()];
  if (count > DEFAULT_MAX_DATA_XFER_SIZE) throw invalid(command, `${count} bytes at once`);
  const isWrite = command === VFIO_USER_DMA_WRITE;
  const answer = new Writer(ACCESS_BYTES + (isWrite ? 0 : count)).u64(at).u64(count);
  const data = isWrite ? reader.bytes(count) : new Uint8Array(count);
  copy(at, data, isWrite);
  return isWrite ? answer.bytes : answer.data(data).bytes;
}
