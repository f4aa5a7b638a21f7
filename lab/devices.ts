/** A device that L1 can have; its row is its complete description. */
interface DeviceRow {
  /** Slot on the root bus of the device, or of the root port above it. */
  readonly slot: number;
  /** 0 by default. Rows with the same slot are functions of one device. */
  readonly fn?: number;
  /** Placed below a root port of its slot's: needed for hot-unplug, AER, SR-IOV and bus resets. */
  readonly behindPort?: true;
  readonly backend: 'network' | 'disk' | 'none';
  /** QEMU's device model with options. */
  readonly model: string;
}

export const deviceTable = {
  e1000e: { slot: 0x10, backend: 'network', model: 'e1000e' },
  'virtio-net': {
    slot: 0x11,
    backend: 'network',
    model: 'virtio-net-pci,disable-legacy=on,iommu_platform=on',
  },
  // QEMU's igb has no space for its VFs on the root bus.
  igb: { slot: 0x12, backend: 'network', model: 'igb', behindPort: true },
  nvme: { slot: 0x13, backend: 'disk', model: 'nvme,serial=lab' },
  edu: { slot: 0x14, backend: 'none', model: 'edu' },
  'e1000e-port': { slot: 0x15, backend: 'network', model: 'e1000e', behindPort: true },
  // Two functions without any reset of their own, in one IOMMU group, as a graphics card with its audio function:
  // only a reset of the bus stops their DMA.
  pair: { slot: 0x16, backend: 'network', model: 'e1000', behindPort: true },
  'pair-1': { slot: 0x16, fn: 1, backend: 'network', model: 'e1000', behindPort: true },
  xhci: { slot: 0x17, backend: 'none', model: 'qemu-xhci' },
  rtl8139: { slot: 0x18, backend: 'network', model: 'rtl8139' },
} as const satisfies Record<string, DeviceRow>;

export type DeviceName = keyof typeof deviceTable;

export const deviceNames = Object.keys(deviceTable) as DeviceName[];

const hex = (value: number): string => value.toString(16).padStart(2, '0');

const rowOf = (name: DeviceName): DeviceRow => deviceTable[name];

/** Slots of the root ports above devices, in the order of their buses. */
export function portSlots(names: readonly DeviceName[]): number[] {
  const behindPorts = names.map(rowOf).filter((row) => row.behindPort);
  return [...new Set(behindPorts.map(({ slot }) => slot))].sort((a, b) => a - b);
}

/** PCI addresses of devices in L1. The firmware numbers buses in the order of the root ports' slots. */
export function pciAddresses(names: readonly DeviceName[]): Map<DeviceName, string> {
  const ports = portSlots(names);
  return new Map(
    names.map((name) => {
      const { slot, fn = 0, behindPort } = rowOf(name);
      const place = behindPort ? `${hex(ports.indexOf(slot) + 1)}:00` : `00:${hex(slot)}`;
      return [name, `0000:${place}.${fn}`];
    }),
  );
}

/** The variable with a device's address, for commands in L1: LAB_VIRTIO_NET for virtio-net. */
export const addressVariable = (name: string): string => `LAB_${name.toUpperCase().replaceAll('-', '_')}`;

/**
 * QEMU's arguments for devices. Each NIC has its own user-mode network; a device's id is its name in the table.
 * @param diskFile returns the image file of a disk
 */
export function deviceArguments(names: readonly DeviceName[], diskFile: (name: string) => string): string[] {
  const ports = new Map<number, string>();
  return names.flatMap((name) => {
    const { slot, fn = 0, behindPort, backend, model } = rowOf(name);
    const options = [model, `id=${name}`];
    const args: string[] = [];
    if (behindPort) {
      const port = ports.get(slot) ?? `${name}-port`;
      if (!ports.has(slot))
        args.push('-device', `pcie-root-port,id=${port},chassis=${slot},bus=pcie.0,addr=${hex(slot)}`);
      ports.set(slot, port);
      options.push(`bus=${port}`);
    } else {
      options.push('bus=pcie.0', `addr=${hex(slot)}`);
    }
    if (names.some((other) => other !== name && rowOf(other).slot === slot)) {
      options.push(`addr=0.${fn}`, 'multifunction=on');
    }
    if (backend === 'network') {
      args.push('-netdev', `user,id=${name}-net`);
      options.push(`netdev=${name}-net`, `mac=52:54:00:12:3${fn + 4}:${hex(slot)}`);
    } else if (backend === 'disk') {
      args.push('-drive', `if=none,id=${name}-disk,format=raw,file=${diskFile(name)}`);
      options.push(`drive=${name}-disk`);
    }
    return [...args, '-device', options.join(',')];
  });
}

/** @throws Error listing the available devices, if a name is unknown */
export function parseDevices(text: string): DeviceName[] {
  if (text === 'all') return [...deviceNames];
  if (text === 'none') return [];
  return text.split(',').map((word) => {
    if (word in deviceTable) return word as DeviceName;
    throw new Error(`no device '${word}' in the lab\n  hint: all, none, or some of ${deviceNames.join(',')}`);
  });
}
