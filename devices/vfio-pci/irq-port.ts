import { isErrno } from '../../sys/error.js';
import {
  type DeviceFile,
  type IrqInfo,
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_ACTION_UNMASK,
  VFIO_IRQ_SET_DATA_EVENTFD,
  VFIO_IRQ_SET_DATA_NONE,
} from '../../vfio/uapi.js';

/** One IRQ index of a device, and the forms of VFIO_DEVICE_SET_IRQS used on it. */
export class IrqPort {
  readonly info: IrqInfo;
  readonly #file: DeviceFile;

  private constructor(file: DeviceFile, info: IrqInfo) {
    this.#file = file;
    this.info = info;
  }

  /** Opens the index; undefined if the device does not have it (Linux reports EINVAL for some). */
  static open(file: DeviceFile, numIrqs: number, index: number): IrqPort | undefined {
    if (index >= numIrqs) return undefined;
    try {
      const info = file.getIrqInfo(index);
      return info.count === 0 ? undefined : new IrqPort(file, info);
    } catch (error) {
      if (isErrno(error, 'EINVAL')) return undefined;
      throw error;
    }
  }

  /** Wires `fds` as triggers of the vectors from `start`; -1 wires none. @throws SysError as SET_IRQS */
  trigger(start: number, fds: readonly number[]): void {
    const flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
    this.#file.setIrqs({ index: this.info.index, flags, start, count: fds.length, data: fds });
  }

  /** Makes the provider unmask INTx whenever `fd` is signalled. @throws SysError ENOTTY if it cannot */
  unmaskBy(fd: number): void {
    const flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_UNMASK;
    this.#file.setIrqs({ index: this.info.index, flags, start: 0, count: 1, data: [fd] });
  }

  /** Unmasks INTx once. */
  unmask(): void {
    const flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK;
    this.#file.setIrqs({ index: this.info.index, flags, start: 0, count: 1 });
  }

  /** Unwires all eventfds and disables the index. */
  disable(): void {
    const flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER;
    this.#file.setIrqs({ index: this.info.index, flags, start: 0, count: 0 });
  }
}
