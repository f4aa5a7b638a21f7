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
  /** The name of the device whose slot it shares, as its next function; absent if it has function 0. */
  readonly beside?: string;
}

/** Stands for the folder that L1 has as /run/lab, in a device's options. */
export const BOOT_FOLDER = '@run';

/** Root ports are functions of this slot. */
const PORT_SLOT = 0x19;
const MOST_PORTS = 8;
const MOST_FUNCTIONS = 8;
/** Devices without a port are in the slots from here on. */
const FIRST_SLOT = 0x1a;
const LAST_SLOT = 0x1e;

/**
 * Parses `testcard,vectors=16`, with three options of the lab's own: `name=NAME` (by default the type, numbered from the second
 * on), `port=off` for a device on the root bus, and `with=NAME` for the next function of a device before it.
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
    const beside = own('with');
    const first = served.find((other) => other.name === beside);
    if (beside !== undefined && (first === undefined || first.beside !== undefined))
      throw new Error(
        `--serve ${text}: with=${beside}\n  hint: the name of a device before it that has function 0`,
      );
    const others = served.filter((other) => other.beside === beside);
    if (beside !== undefined && others.length === MOST_FUNCTIONS - 1)
      throw new Error(`--serve ${text}: ${beside} has 8 functions already`);
    const port = own('port') ?? (first?.isBehindPort === false ? 'off' : 'on');
    if (port !== 'on' && port !== 'off') throw new Error(`--serve ${text}: port=${port}\n  hint: on or off`);
    const rest = options.filter((option) => !/^(name|port|with)=/.test(option));
    const device = { name, device: [type, ...rest].join(','), isBehindPort: port === 'on' };
    served.push(
      beside === undefined ? device : { ...device, beside, isBehindPort: first?.isBehindPort ?? true },
    );
  }
  const slots = served.filter(({ beside }) => beside === undefined);
  const [ports, flat] = [true, false].map((is) => slots.filter(({ isBehindPort }) => isBehindPort === is));
  const room = LAST_SLOT - FIRST_SLOT + 1;
  if ((ports as ServedDevice[]).length > MOST_PORTS || (flat as ServedDevice[]).length > room)
    throw new Error(`--serve: there is room for ${MOST_PORTS} devices, and ${room} with port=off`);
  return served;
}

const hex = (value: number): string => value.toString(16).padStart(2, '0');

interface Placed extends ServedDevice {
  /** The number of its port, or its slot. */
  readonly place: number;
  readonly fn: number;
  /** Whether its slot has other functions. */
  readonly isOneOfSeveral: boolean;
}

function placed(served: readonly ServedDevice[]): Placed[] {
  let [port, slot] = [0, FIRST_SLOT];
  const list: Placed[] = [];
  for (const device of served) {
    const before = list.filter(({ name, beside }) => device.beside === (beside ?? name));
    const isOneOfSeveral = before.length > 0 || served.some(({ beside }) => beside === device.name);
    const place = before[0]?.place ?? (device.isBehindPort ? port++ : slot++);
    list.push({ ...device, place, fn: before.length, isOneOfSeveral });
  }
  return list;
}

/** PCI addresses in L1 by name. @param devices the others of this L1, whose ports come before */
export function servedAddresses(
  served: readonly ServedDevice[],
  devices: readonly DeviceName[],
): Map<string, string> {
  const first = portSlots(devices).length + 1;
  return new Map(
    placed(served).map(({ name, isBehindPort, place, fn }) => [
      name,
      isBehindPort ? `0000:${hex(first + place)}:00.${fn}` : `0000:00:${hex(place)}.${fn}`,
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
    placed(served).map(({ name, isBehindPort, place, fn, isOneOfSeveral, beside = name }) => [
      name,
      {
        driver: 'vfio-user-pci',
        id: name,
        bus: isBehindPort ? `${beside}-port` : 'pcie.0',
        ...(isBehindPort ? {} : { addr: `0x${hex(place)}` }),
        ...(isOneOfSeveral ? { addr: `${isBehindPort ? '0' : hex(place)}.${fn}`, multifunction: true } : {}),
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
  const ports = placed(served).filter(({ isBehindPort, fn }) => isBehindPort && fn === 0);
  return [
    ...ports.map(({ name, place }) => port(name, place)),
    ...[...clientProperties(served, socketOf).values()].map((properties) => JSON.stringify(properties)),
  ].flatMap((device) => ['-device', device]);
}
