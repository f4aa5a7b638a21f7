import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { DmaLoggingOps } from '../../vfio/driver.js';

const PAGE = 4096n;

/** The log of the pages that a device writes which writes none. Machine thread only. */
export class NoDmaLog implements DmaLoggingOps {
  readonly #name: string;
  #isOn = false;

  /** @param name of the device, for errors */
  constructor(name: string) {
    this.#name = name;
  }

  /** @throws SysError EINVAL if it is on already, as in Linux's drivers */
  start(): bigint {
    if (this.#isOn) throw this.#invalid('START', 'its log is on already');
    this.#isOn = true;
    return PAGE;
  }

  stop(): void {
    this.#isOn = false;
  }

  /** Sets nothing. @throws SysError EINVAL if it is off */
  readAndClear(): void {
    if (!this.#isOn) throw this.#invalid('REPORT', 'its log is off');
  }

  #invalid(what: string, hint: string): SysError {
    const call = `VFIO_DEVICE_FEATURE_DMA_LOGGING_${what}`;
    return new SysError({ call, target: this.#name, errno: errno.EINVAL, hint });
  }
}
