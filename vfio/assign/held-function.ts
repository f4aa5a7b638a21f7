import { overlay } from '../../sys/overlay.js';
import { attachStep } from './attach-step.js';
import type { PciFunction } from './pci-functions.js';

// linux/pci_regs.h
const PCI_COMMAND = 4;
const PCI_COMMAND_MASTER = 4;

/**
 * A function whose device masters the bus once guest memory is mapped for its DMA: the write of PCI_COMMAND_MASTER waits, and leaves the
 * bit clear if memory cannot be mapped.
 * @param settle returns once memory is mapped, and throws if it cannot be
 */
export function heldFunction(pciFunction: PciFunction, settle: () => void): PciFunction {
  const isMapped = (): boolean => {
    try {
      settle();
      return true;
    } catch (error) {
      attachStep(`${pciFunction.name} does not master the bus: ${(error as Error).message}`);
      return false;
    }
  };
  const { load } = pciFunction;
  return overlay(pciFunction, {
    configWrite(offset: number, bytes: number, value: number): void {
      // Accesses are aligned: one that has the register's first byte begins with it.
      const masters = offset === PCI_COMMAND && (value & PCI_COMMAND_MASTER) !== 0;
      pciFunction.configWrite(
        offset,
        bytes,
        masters && !isMapped() ? (value & ~PCI_COMMAND_MASTER) >>> 0 : value,
      );
    },
    ...(load && {
      load(state: Uint8Array): void {
        settle(); // it may master the bus
        load.call(pciFunction, state);
      },
    }),
  });
}
