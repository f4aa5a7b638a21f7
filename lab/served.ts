/** Devices that the lab serves by vfio-user, and that L1's QEMU has as PCI devices. */
import { type DeviceName, portSlots } from './devices.js';

/** A device of `--serve`. */
export interface ServedDevice {
  /** Its id in QEMU, and of its variable. */
  readonly name: string;
  /** As `tsvisor serve` takes it. */
  readonly device: string;
  /** Whether it is below a root port of its own: needed for REQ, hot-unplug, and resets of the bus. */
  readonly isBehindPort: boolean;
}

/** Stands for the folder that L1 has as /run/lab, in a device's options. */
export const BOOT_FOLDER = '@run';

/** Root ports are functions of this slot. */
const PORT_SLOT = 0x19;
const MOST_PORTS = 8;
/** Devices without a port are in the slots from here on. */
const FIRST_SLOT = 0x1a;
const LAST_SLOT = 0x1e;

/**
 * Parses `testcard,vectors=16`, with two options of the lab's own: `name=NAME` (by default the type, numbered from the second
 * on) and `port=off` for a device on the root bus.
 * @throws Error for a name that is taken or invalid, or for more devices than there is room for
 */
export function parseServed(texts: readonly string[]): ServedDevice[] {
  const served: ServedDevice[] = [];
  for (const text of texts) {
    const [type = '', ...options] = text.split(',');
    const own = (key: string) =>
      options.findLast((option) => option.startsWith(`${key}=`))?.slice(key.length + 1);
    const count = served.filter(({ device }) => device.split(',')[0] === type).length;
    const name = own('name') ?? (count === 0 ? type : `${type}-${count + 1}`);
    if (!/^[a-z][a-z0-9-]*$/.test(name))
      throw new Error(`--serve ${text}: '${name}' is no name\n  hint: small letters, digits and dashes`);
    if (served.some((other) => other.name === name))
      throw new Error(`--serve ${text}: there are two of the name ${name}\n  hint: name=ANOTHER`);
    const port = own('port') ?? 'on';
    if (port !== 'on' && port !== 'off') throw new Error(`--serve ${text}: port=${port}\n  hint: on or off`);
    const rest = options.filter((option) => !/^(name|port)=/.test(option));
    served.push({ name, device: [type, ...rest].join(','), isBehindPort: port === 'on' });
  }
  const [ports, others] = [true, false].map((is) => served.filter(({ isBehindPort }) => isBehindPort === is));
  const room = LAST_SLOT - FIRST_SLOT + 1;
  if ((ports as ServedDevice[]).length > MOST_PORTS || (others as ServedDevice[]).length > room)
    throw new Error(`--serve: there is room for ${MOST_PORTS} devices, and ${room} with port=off`);
  return served;
}

const hex = (value: number): string => value.toString(16).padStart(2, '0');

const placed = (served: readonly ServedDevice[]) => {
  let [port, slot] = [0, FIRST_SLOT];
  return served.map((device) => ({ ...device, place: device.isBehindPort ? port++ : slot++ }));
};

/** PCI addresses in L1 by name. @param devices the others of this L1, whose ports come before */
export function servedAddresses(
  served: readonly ServedDevice[],
  devices: readonly DeviceName[],
): Map<string, string> {
  const first = portSlots(devices).length + 1;
  return new Map(
    placed(served).map(({ name, isBehindPort, place }) => [
      name,
      isBehindPort ? `0000:${hex(first + place)}:00.0` : `0000:00:${hex(place)}.0`,
    ]),
  );
}

const port = (name: string, place: number): string =>
  `pcie-root-port,id=${name}-port,chassis=${64 + place},bus=pcie.0,addr=${hex(PORT_SLOT)}.${place},multifunction=on`;

/** Properties of QEMU's client, for `-device` and `device_add`, by name. @param socketOf where a device is served */
export function clientProperties(
  served: readonly ServedDevice[],
  socketOf: (name: string) => string,
): Map<string, object> {
  return new Map(
    placed(served).map(({ name, isBehindPort, place }) => [
      name,
      {
        driver: 'vfio-user-pci',
        id: name,
        ...(isBehindPort ? { bus: `${name}-port` } : { bus: 'pcie.0', addr: `0x${hex(place)}` }),
        socket: { path: socketOf(name), type: 'unix' },
      },
    ]),
  );
}

/** QEMU's arguments. @param socketOf the path where a device is served */
export function servedArguments(
  served: readonly ServedDevice[],
  socketOf: (name: string) => string,
): string[] {
  const ports = placed(served).filter(({ isBehindPort }) => isBehindPort);
  return [
    ...ports.map(({ name, place }) => port(name, place)),
    ...[...clientProperties(served, socketOf).values()].map((properties) => JSON.stringify(properties)),
  ].flatMap((device) => ['-device', device]);
}
