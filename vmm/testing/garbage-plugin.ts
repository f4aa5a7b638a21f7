/**
 * For tests: a plug-in with a NIC and a device that count what the event thread and the machine's thread leave to the garbage
 * collector.
 */
import { PciRegions } from '../../devices/mdev/pci-regions.js';
import { RegionOps } from '../../devices/mdev/region-ops.js';
import { ConfigSpace } from '../../devices/pci/config-space.js';
import {
  PCI_CLASS_DEVICE,
  PCI_COMMAND,
  PCI_COMMAND_MASTER,
  PCI_COMMAND_MEMORY,
  PCI_DEVICE_ID,
  PCI_VENDOR_ID,
} from '../../devices/pci/pci-regs.js';
import { createVirtioNetDriver } from '../../devices/virtio-net/index.js';
import { workerUrl } from '../../sys/worker-url.js';
import type { VendorDriver, VfioDeviceOps } from '../../vfio/driver.js';
import type { Plugin } from '../plugin.js';
import { GarbageCount } from './collections.js';
import { countedResponder } from './counted-responder.js';

/** Written to BAR 0. */
const BEGIN = 1;
const END = 2;

const WASTE_BYTES = 2000;

function createConfig(): ConfigSpace {
  const space = new ConfigSpace();
  space.set(PCI_VENDOR_ID, 2, 0x1234);
  space.set(PCI_DEVICE_ID, 2, 0xc0de);
  space.set(PCI_CLASS_DEVICE, 2, 0xff00);
  space.allow(PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
  return space;
}

/** Counts between two writes. All other accesses to its BAR do nothing. */
class ExitCounter extends RegionOps implements VfioDeviceOps {
  readonly name = 'exit-counter';
  readonly #isWasteful: boolean;
  #count: GarbageCount | undefined;
  #waste: number[] = [];
  counters: Record<string, number> = {};

  protected readonly regions = new PciRegions('exit-counter', {
    config: { create: createConfig },
    bars: [
      {
        index: 0,
        size: 4096,
        read: () => this.#read(),
        write: (_offset, data) => this.#write(data[0] as number),
      },
    ],
  });

  constructor(isWasteful: boolean) {
    super();
    this.#isWasteful = isWasteful;
  }

  openDevice(): void {}
  closeDevice(): void {}
  setIrqs(): void {}
  getIrqInfo(index: number) {
    return { index, flags: 0, count: 0 };
  }

  #read(): void {
    if (this.#isWasteful) this.#waste = new Array<number>(WASTE_BYTES / 8).fill(this.#waste.length);
  }

  #write(command: number): void {
    if (command === BEGIN) this.#count = new GarbageCount();
    if (command === END && this.#count !== undefined) this.counters = { ...this.#count.stop() };
  }
}

const exitCounter: VendorDriver = {
  name: 'exit-counter',
  types: ['exit-counter', 'wasteful-exit-counter'].map((name) => ({
    name,
    description: 'counts garbage of the machine thread',
    deviceApi: 'vfio-pci',
    maxInstances: 1,
  })),
  create({ name }) {
    const ops = new ExitCounter(name === 'wasteful-exit-counter');
    return { ops, counters: () => ops.counters, [Symbol.dispose]() {} };
  },
};

const nic = createVirtioNetDriver({
  backends: [countedResponder],
  task: workerUrl('vmm/testing/counted-net-task.js'),
});
const countedNic: VendorDriver = {
  ...nic,
  name: 'counted-nic',
  types: nic.types.map((type) => ({ ...type, name: 'counted-nic' })),
  create: (type, ...rest) => nic.create({ ...type, name: 'virtio-net' }, ...rest),
};

export const plugin: Plugin = { name: 'garbage', vendorDrivers: [exitCounter, countedNic] };
