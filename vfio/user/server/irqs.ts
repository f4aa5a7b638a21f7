/** Translates VFIO_USER_DEVICE_SET_IRQS to VFIO_DEVICE_SET_IRQS. */
import type { Fd } from '../../../sys/fd.js';
import {
  type DeviceFile,
  type IrqSet,
  VFIO_IRQ_SET_DATA_BOOL,
  VFIO_IRQ_SET_DATA_EVENTFD,
} from '../../uapi.js';
import { invalid, Reader } from '../message.js';
import { VFIO_USER_DEVICE_SET_IRQS } from '../protocol.js';

const SET_IRQS_BYTES = 20;
/** The maximum of MSI-X. */
const MOST_VECTORS = 2048;

/**
 * The message has one descriptor for each interrupt of the range, or none, which detaches all of them. The message owns
 * the descriptors; the device duplicates those it keeps.
 * @throws SysError as VFIO_DEVICE_SET_IRQS
 */
export function setIrqs(device: DeviceFile, payload: Uint8Array, fds: readonly Fd[]): void {
  const reader = new Reader(VFIO_USER_DEVICE_SET_IRQS, payload);
  reader.argsz(SET_IRQS_BYTES);
  const [flags, index, start, count] = [reader.u32(), reader.u32(), reader.u32(), reader.u32()];
  if (count > MOST_VECTORS) throw invalid(VFIO_USER_DEVICE_SET_IRQS, `${count} interrupts at once`);
  const set = { index, flags, start, count };
  device.setIrqs({ ...set, ...dataOf(set, reader, fds) });
}

function dataOf({ flags, count }: IrqSet, reader: Reader, fds: readonly Fd[]): Pick<IrqSet, 'data'> {
  if ((flags & VFIO_IRQ_SET_DATA_BOOL) !== 0)
    return { data: [...reader.bytes(count)].map((byte) => (byte === 0 ? 0 : 1)) };
  if ((flags & VFIO_IRQ_SET_DATA_EVENTFD) === 0) return {};
  if (fds.length === 0) return { data: new Array<number>(count).fill(-1) };
  if (fds.length !== count)
    throw invalid(VFIO_USER_DEVICE_SET_IRQS, `${fds.length} descriptors for ${count} interrupts`);
  return { data: fds.map(({ number }) => number) };
}
