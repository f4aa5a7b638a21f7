import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { type IrqSet, VFIO_IRQ_SET_DATA_BOOL, VFIO_IRQ_SET_DATA_EVENTFD } from '../uapi.js';
import { IrqSetStruct, VFIO_DEVICE_SET_IRQS } from './structs.js';

/** Above the interrupts of any index: MSI-X has at most 2048. */
const DATA_LIMIT = 4096;

/**
 * Encodes struct vfio_irq_set, followed by its data. The kernel checks range and flags.
 * @throws SysError EINVAL if the data do not match the flags in number or type
 */
export function encodeIrqSet(set: IrqSet, target: string): Uint8Array {
  const { index, flags, start, count, data = [] } = set;
  const fail = (hint: string) =>
    new SysError({ call: VFIO_DEVICE_SET_IRQS.name, target, errno: errno.EINVAL, hint });
  for (const value of [index, flags, start, count]) {
    if (!Number.isInteger(value) || value < 0 || value > 0xffff_ffff)
      throw fail(`${value} is no 32-bit number`);
  }
  const isEventfd = (flags & VFIO_IRQ_SET_DATA_EVENTFD) !== 0;
  const isBool = (flags & VFIO_IRQ_SET_DATA_BOOL) !== 0;
  const expected = isEventfd || isBool ? count : 0;
  if (data.length < expected || data.length > DATA_LIMIT)
    throw fail(`${data.length} values for ${count} interrupts`);
  const width = isEventfd ? 4 : 1;
  const bytes = IrqSetStruct.encode({ flags, index, start, count }, expected * width);
  IrqSetStruct.write(bytes, { argsz: bytes.length });
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < expected; i++) {
    const value = data[i] as number;
    if (!Number.isInteger(value) || value < (isEventfd ? -1 : 0) || value > (isEventfd ? 0x7fff_ffff : 1)) {
      throw fail(`${value} is ${isEventfd ? 'no descriptor' : 'neither 0 nor 1'}`);
    }
    const at = IrqSetStruct.size + i * width;
    if (isEventfd) view.setInt32(at, value, true);
    else view.setUint8(at, value);
  }
  return bytes;
}
