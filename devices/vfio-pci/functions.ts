import type { OpenedVf, PciFunction, PciFunctions, PciWiring, SlotReset } from '../../vfio/assign/index.js';
import type { SriovFunctions } from '../../vfio/sriov.js';
import type { DeviceFile } from '../../vfio/uapi.js';
import type { PciEnvironment } from '../contracts.js';
import { VfioPciDevice } from './device.js';
import { attempt } from './notes.js';
import { SlotMembers } from './slot-members.js';

/** Shows assigned devices to the guest as PCI functions of one machine. */
export class VfioPciFunctions implements PciFunctions {
  readonly #environment: PciEnvironment;
  readonly #members = new SlotMembers();
  readonly #open = new Set<VfioPciDevice>();

  constructor(environment: PciEnvironment) {
    this.#environment = environment;
  }

  /** @see VfioPciDevice.open */
  open(
    name: string,
    file: DeviceFile,
    wiring: PciWiring,
    slot?: SlotReset,
    sriov?: SriovFunctions<OpenedVf>,
  ): PciFunction {
    const options = slot === undefined ? undefined : { reset: slot, members: this.#members };
    const device = VfioPciDevice.open(name, file, this.#environment, wiring, options, sriov);
    this.#open.add(device);
    return {
      name: device.name,
      configRead: (offset, bytes) => device.configRead(offset, bytes),
      configWrite: (offset, bytes, value) => device.configWrite(offset, bytes, value),
      inspect: () => device.inspect(),
      save: () => device.save(),
      load: (state) => device.load(state),
      [Symbol.dispose]: () => {
        this.#open.delete(device);
        device[Symbol.dispose]();
      },
    };
  }

  /** Stops all devices before it resets the first, so that none of a slot is in use when that is reset. */
  reset(isFinal = false): void {
    const devices = [...this.#open];
    for (const device of devices) attempt(device.name, 'reset', () => device.stop());
    for (const device of devices) attempt(device.name, 'reset', () => device.resume(isFinal));
  }
}
