import {
  type IrqInfo,
  type IrqSet,
  VFIO_IRQ_SET_ACTION_MASK,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_ACTION_UNMASK,
  VFIO_IRQ_SET_DATA_BOOL,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_IRQ_SET_DATA_NONE,
} from './uapi.js';
import { vfioError } from './vfio-error.js';

const DATA_TYPE_MASK = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_DATA_BOOL | VFIO_IRQ_SET_DATA_EVENTFD;
const ACTION_TYPE_MASK = VFIO_IRQ_SET_ACTION_MASK | VFIO_IRQ_SET_ACTION_UNMASK | VFIO_IRQ_SET_ACTION_TRIGGER;
const U32_MAX = 0xffff_ffff;

const isU32 = (value: number): boolean => Number.isInteger(value) && value >= 0 && value <= U32_MAX;

/**
 * Validates a set before a driver gets it: start and count lie within the index, and the amount of data matches the
 * flags. @see vfio_set_irqs_validate_and_prepare
 * @param infoOf returns an index's info; called for indexes below `numIrqs` only
 * @throws SysError EINVAL for a set that is invalid; ENOTTY for no action or several
 */
export function validateIrqSet(
  set: IrqSet,
  numIrqs: number,
  infoOf: (index: number) => IrqInfo,
  target: string,
): void {
  const call = 'VFIO_DEVICE_SET_IRQS';
  const fail = (hint: string) => vfioError(call, target, 'EINVAL', hint);
  const { index, flags, start, count, data = [] } = set;
  if (!isU32(index) || index >= numIrqs) throw fail(`there is no irq index ${index}`);
  if (!isU32(start) || !isU32(count) || count >= U32_MAX - start)
    throw fail(`start ${start}, count ${count}`);
  if ((flags & ~(DATA_TYPE_MASK | ACTION_TYPE_MASK)) !== 0) throw fail(`flags 0x${flags.toString(16)}`);
  const total = infoOf(index).count;
  if (start >= total || start + count > total) {
    throw fail(`index ${index} has ${total}, not ${count} from ${start} on`);
  }
  const type = flags & DATA_TYPE_MASK;
  if (type === VFIO_IRQ_SET_DATA_BOOL || type === VFIO_IRQ_SET_DATA_EVENTFD) {
    if (data.length < count) throw fail(`${data.length} values for ${count} interrupts`);
  } else if (type !== VFIO_IRQ_SET_DATA_NONE) {
    throw fail('exactly one kind of data');
  }
  const action = flags & ACTION_TYPE_MASK;
  if (action === 0 || (action & (action - 1)) !== 0)
    throw vfioError(call, target, 'ENOTTY', 'exactly one action');
}
