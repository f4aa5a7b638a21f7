import type { PciFunction, PciFunctions, PciWiring } from '../../vfio/assign/index.js';
import type { DeviceFile } from '../../vfio/uapi.js';
import type { PciEnvironment } from '../contracts.js';
import { VfioPciDevice } from './device.js';

/** Shows assigned devices to the guest as PCI functions of one machine. */
export class VfioPciFunctions implements PciFunctions {
  readonly #environment: PciEnvironment;

  constructor(environment: PciEnvironment) {
    this.#environment = environment;
  }

  /** @see VfioPciDevice.open */
  open(name: string, file: DeviceFile, wiring: PciWiring): PciFunction {
    return VfioPciDevice.open(name, file, this.#environment, wiring);
  }
}
