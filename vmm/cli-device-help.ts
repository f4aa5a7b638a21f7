/**
 * Devices, as the help, the completion and the manual page list them. Loaded for these alone: the types of this process and
 * their options are the vendor drivers' own.
 */
import type { MdevType } from '../vfio/driver.js';
import { vendorDrivers } from './assign/built-ins.js';
import { rowLines } from './command-line.js';

/** A kind of device, as `--device` and `serve` take it. */
interface DeviceRow {
  /** What an address is or begins with. */
  readonly names: readonly string[];
  /** The address in the help; the names if absent. */
  readonly shown?: string;
  /** Names of its options. */
  readonly options: readonly string[];
  /** Lines of help. */
  readonly help: readonly string[];
}

/** Columns of the help beside an address. */
const HELP_COLUMNS = 57;

/** Its address in the help. */
export const deviceNames = ({ names, shown = names.join(', ') }: DeviceRow): string => shown;

export const DEVICES: readonly DeviceRow[] = [
  ...vendorDrivers().flatMap(({ types }) => types.map(typeRow)),
  {
    names: [],
    shown: '0000:01:00.0',
    options: ['bind', 'vf-token', 'vgpu-type'],
    help: [
      'a PCI function of the host: bind=vfio-pci takes it from',
      "its driver for the run; vf-token=UUID of the VF's owner;",
      'vgpu-type=NAME makes a VF a vGPU for the run',
    ],
  },
  {
    names: ['mdev:'],
    shown: 'UUID, mdev:TYPE',
    options: ['uuid', 'parent'],
    help: ['a mediated device of the kernel, there or to be made:', 'uuid= parent='],
  },
  {
    names: ['fd:'],
    shown: 'fd:N',
    options: ['device', 'group-fd', 'cdev-fd', 'container-fd', 'iommufd-fd'],
    help: ['an open cdev or group: device= group-fd= cdev-fd=', 'container-fd= iommufd-fd='],
  },
  {
    names: ['vfio-user:'],
    shown: 'vfio-user:PATH',
    options: ['trust', 'timeout', 'twin'],
    help: ["another process's device: trust=on timeout=SECONDS", 'twin=off'],
  },
];

/** The section of the help. */
export const DEVICE_HELP: readonly string[] = [
  '',
  'Devices are an ADDRESS with options, separated by commas; tsvisor types explains',
  'those of this process. net= is as --net, with semicolons for commas.',
  '',
  ...DEVICES.flatMap((row) => rowLines(`  ${deviceNames(row)}`, row.help)),
];

function typeRow({ name, description, options = [] }: MdevType): DeviceRow {
  // Some name their options there, too.
  const noun = description.replace(/ \(.*\)$/, '');
  const text = [
    `${noun}${options.length > 0 ? ':' : ''}`,
    ...options.map((each) => `${each.name}=${each.value}`),
  ];
  return { names: [name], options: options.map((each) => each.name), help: wrapped(text.join(' ')) };
}

function wrapped(text: string): string[] {
  const lines: string[] = [];
  for (const word of text.split(' ')) {
    const last = lines.at(-1);
    if (last === undefined || last.length + 1 + word.length > HELP_COLUMNS) lines.push(word);
    else lines[lines.length - 1] = `${last} ${word}`;
  }
  return lines;
}
