/** Resolves an address to a device that can be opened. */
import { basename } from 'node:path';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { Scope } from '../../sys/scope.js';
import { FD_PREFIX, MDEV_PREFIX, pciAddress } from '../addresses.js';
import { unknownOptions } from '../option-problem.js';
import type { AssignableDevice } from '../provider.js';
import { isUuid } from '../uuid.js';
import type { HostContext } from './context.js';
import { createMdev, removeMdev } from './mdev.js';
import type { Preopened, PreopenedKind } from './preopened.js';
import type { RunBindings } from './run-bindings.js';
import type { HostGroup, SysfsDevice } from './sysfs.js';
import { checkUsable } from './usable.js';
import { readVfTypes, setVfType, type VfTypes } from './vf-type.js';

/** Options of an address, and their meanings. */
const OPTIONS = {
  bind: 'driver to give a PCI function to first, and to take it from afterwards: vfio-pci',
  'vf-token': "UUID that the owner of a VF's physical function has set",
  'vgpu-type': 'type that a VF for vGPUs has as long as it is assigned: its name, or its ID',
  uuid: 'of the mediated device that mdev:TYPE makes',
  parent: 'device that shall provide a mediated device',
  device: 'which device of a group that comes as a descriptor',
  'group-fd': "descriptor of the device's group",
  'cdev-fd': "descriptor of the device's cdev",
  'container-fd': 'descriptor of /dev/vfio/vfio',
  'iommufd-fd': 'descriptor of /dev/iommu',
} as const;
type OptionName = keyof typeof OPTIONS;
type Options = Readonly<Partial<Record<OptionName, string>>>;

/** @throws SysError EINVAL for an option that does not exist, or a value that no host could take */
export function checkOptions(address: string, options: Readonly<Record<string, string>>): Options {
  const hint = unknownOptions(Object.keys(options), OPTIONS) ?? valueProblem(address, options);
  if (hint === undefined) return checkDescriptors(address, options);
  throw new SysError({ call: 'resolve', target: address, errno: errno.EINVAL, hint });
}

/** What the options that are not for every address are for. */
const KINDS: readonly (readonly [
  options: readonly OptionName[],
  kind: string,
  is: (address: string) => boolean,
])[] = [
  [['bind', 'vgpu-type'], 'a PCI function', (address) => pciAddress(address) !== undefined],
  [['uuid', 'parent'], 'mdev:TYPE', (address) => address.startsWith(MDEV_PREFIX)],
  [['device'], 'fd:N', (address) => address.startsWith(FD_PREFIX)],
];

function valueProblem(address: string, options: Options): string | undefined {
  if (address === MDEV_PREFIX) return 'a type is missing: mdev:TYPE; tsvisor types lists them';
  for (const [names, kind, is] of KINDS) {
    const name = names.find((each) => options[each] !== undefined);
    if (name !== undefined && !is(address)) return `${name}: is an option of ${kind}, and ${address} is none`;
  }
  const { bind, uuid, 'vgpu-type': type } = options;
  if (type === '') return 'vgpu-type: a type is missing; tsvisor types lists them';
  if (type !== undefined && bind !== undefined)
    return "bind: the vendor's driver, which has the VF already, is the VFIO driver of its vGPU: leave bind= out";
  if (bind !== undefined && !/^[\w-]+$/.test(bind))
    return `bind: '${bind}' is not the name of a driver: bind=vfio-pci`;
  if (uuid !== undefined && !isUuid(uuid)) return `uuid: '${uuid}' is not a UUID`;
  return undefined;
}

function checkDescriptors(address: string, options: Options): Options {
  const given = Object.entries(options).filter(([name]) => name.endsWith('-fd'));
  if (address.startsWith(FD_PREFIX)) given.unshift(['', address.slice(FD_PREFIX.length)]);
  const names = new Map<number, string>();
  for (const [name, value] of given) {
    const what = name === '' ? address : `${address}, option ${name}`;
    const fd = descriptor(value, what);
    const first = names.get(fd);
    names.set(fd, name);
    if (first === undefined) continue;
    const hint = `descriptor ${fd} is ${first === '' ? 'the address' : first}'s, too: each is one file of its own`;
    throw new SysError({ call: 'resolve', target: what, errno: errno.EINVAL, hint });
  }
  const token = options['vf-token'];
  if (token !== undefined && !isUuid(token)) {
    const hint = `vf-token: '${token}' is not a UUID; use the token that the owner of the physical function has set`;
    throw new SysError({ call: 'resolve', target: `${address}, option vf-token`, errno: errno.EINVAL, hint });
  }
  return options;
}

const STDERR = 2;

function descriptor(value: string, what: string): number {
  const isNumber = /^\d{1,9}$/.test(value);
  if (isNumber && Number(value) > STDERR) return Number(value);
  const hint = isNumber
    ? `descriptor ${Number(value)} is a standard stream`
    : `'${value}' is not the number of a descriptor`;
  throw new SysError({ call: 'resolve', target: what, errno: errno.EINVAL, hint });
}

/** What devices that were resolved before have left. */
export interface ResolveState {
  readonly preopened: Preopened;
  readonly bindings: RunBindings;
}

/**
 * Finds a device and checks that it can be assigned; creates a mediated device and binds a driver if the address and
 * options request it. Disposing the result undoes that, and closes descriptors that were passed but not used.
 */
export function resolve(
  context: HostContext,
  { preopened, bindings }: ResolveState,
  address: string,
  given: Readonly<Record<string, string>>,
): AssignableDevice {
  const options = checkOptions(address, given);
  using scope = new Scope();
  const adopt = (value: string, kind: PreopenedKind) => {
    const fd = descriptor(value, `${kind} fd`);
    if (preopened.isUsed(fd)) {
      const hint = 'another device was given this descriptor, and has it: each takes one of its own';
      throw new SysError({ call: 'resolve', target: `fd ${fd}`, errno: errno.EBUSY, hint });
    }
    checkKind(context, fd, kind);
    preopened.give(kind, context.system.adopt(fd, `${kind} (fd ${fd})`));
    scope.defer(() => preopened.close(kind));
  };
  if (options['container-fd'] !== undefined) adopt(options['container-fd'], 'container');
  if (options['iommufd-fd'] !== undefined) adopt(options['iommufd-fd'], 'iommufd');

  const device = find({ context, bindings, scope, adopt }, address, options);
  const group = checkUsable(context, device);
  if (options['group-fd'] !== undefined) adopt(options['group-fd'], `group ${group.number}`);
  if (options['cdev-fd'] !== undefined && device.cdev !== undefined)
    adopt(options['cdev-fd'], `cdev ${device.cdev}`);
  const token = options['vf-token'];
  if (token !== undefined && !isUuid(token)) {
    const hint = `'${token}' is not a UUID; use the token that the owner of the physical function has set`;
    throw new SysError({ call: 'resolve', target: `${address}, option vf-token`, errno: errno.EINVAL, hint });
  }
  const vfTypes = readVfTypes(device);
  const owned = scope.move();
  return {
    name: token === undefined ? device.name : `${device.name} vf_token=${token}`,
    group: group.number,
    ...(device.cdev === undefined ? {} : { cdev: device.cdev }),
    ...(token === undefined ? {} : { vfToken: token }),
    ...(group.isNoiommu ? { isNoiommu: true } : {}),
    // A vGPU that is a VF has a driver behind it that may want guest memory before its guest does.
    ...(device.bus === 'pci' && vfTypes === undefined ? { waitsForMastering: true } : {}),
    description: describe(device, group, vfTypes),
    [Symbol.dispose]: () => owned[Symbol.dispose](),
  };
}

/** What a file of each kind is in /sys/dev/char, and where it is opened. */
function expected(kind: PreopenedKind): readonly [RegExp, string] {
  if (kind === 'container') return [/\/misc\/vfio$/, '/dev/vfio/vfio'];
  if (kind === 'iommufd') return [/\/misc\/iommu$/, '/dev/iommu'];
  const [, name = ''] = kind.split(' ');
  return kind.startsWith('group ')
    ? [new RegExp(`/vfio/(?:noiommu-)?${name}$`), `/dev/vfio/${name}`]
    : [new RegExp(`/vfio-dev/${name}$`), `/dev/vfio/devices/${name}`];
}

/** @throws SysError EINVAL if the descriptor is of another file than this; ENODEV, EBADF */
function checkKind({ sysfs, system }: HostContext, fd: number, kind: PreopenedKind): void {
  const { major, minor } = system.deviceNumber(fd);
  const path = sysfs.characterDevice(major, minor);
  const [form, node] = expected(kind);
  if (form.test(path)) return;
  const hint = `it is ${basename(path)}: it must be ${node}`;
  throw new SysError({ call: 'resolve', target: `${kind} (fd ${fd})`, errno: errno.EINVAL, hint });
}

type Adopt = (value: string, kind: PreopenedKind) => void;

interface Finding {
  readonly context: HostContext;
  readonly bindings: RunBindings;
  /** Owns what is made for the device. */
  readonly scope: Scope;
  readonly adopt: Adopt;
}

function find({ context, bindings, scope, adopt }: Finding, address: string, options: Options): SysfsDevice {
  const { sysfs } = context;
  const pci = pciAddress(address);
  if (pci !== undefined) {
    const type = options['vgpu-type'];
    if (type !== undefined) scope.own(setVfType(sysfs, sysfs.pciDevice(pci), type));
    scope.own(options.bind === undefined ? bindings.use(pci) : bindings.bind(pci, options.bind));
    return sysfs.pciDevice(pci);
  }
  if (isUuid(address)) return sysfs.mdev(address.toLowerCase());
  if (address.startsWith(MDEV_PREFIX)) {
    const { uuid, parent } = options;
    const made = createMdev(sysfs, address.slice(MDEV_PREFIX.length), { uuid, parent });
    scope.defer(() => {
      if (sysfs.hasMdev(made)) removeMdev(sysfs, made);
    });
    return sysfs.mdev(made);
  }
  return fromDescriptor(context, address.slice(FD_PREFIX.length), options, adopt);
}

/** The device of a cdev's descriptor, or of a group's; a group with several devices requires option `device`. */
function fromDescriptor(context: HostContext, value: string, options: Options, adopt: Adopt): SysfsDevice {
  const { sysfs, system } = context;
  const target = `fd ${value}`;
  const { major, minor } = system.deviceNumber(descriptor(value, target));
  const path = sysfs.characterDevice(major, minor);
  const node = basename(path);
  if (path.includes('/vfio-dev/')) {
    adopt(value, `cdev ${node}`);
    return sysfs.cdevDevice(node);
  }
  const number = /\/vfio\/(?:noiommu-)?(\d+)$/.exec(path)?.[1];
  if (number === undefined) {
    const hint = `it is ${node}: it must be a cdev (/dev/vfio/devices/vfioN) or a group (/dev/vfio/N)`;
    throw new SysError({ call: 'resolve', target, errno: errno.EINVAL, hint });
  }
  adopt(value, `group ${Number(number)}`);
  const members = sysfs.group(Number(number)).members.filter(({ isVfio }) => isVfio);
  const wanted = pciAddress(options.device ?? '') ?? options.device;
  const chosen = wanted === undefined ? members : members.filter(({ name }) => name === wanted);
  const [device, ...others] = chosen;
  if (device !== undefined && others.length === 0) return device;
  const names = members.map(({ name }) => name).join(', ') || 'none';
  const hint = `choose one with option device; with a vfio driver in group ${number}: ${names}`;
  throw new SysError({ call: 'resolve', target, errno: errno.ENODEV, hint });
}

function describe(device: SysfsDevice, group: HostGroup, vfTypes: VfTypes | undefined): string {
  const { id, driver, resetMethods, numaNode, physfn, cdev } = device;
  const isPci = device.bus === 'pci';
  const parts = [
    `${isPci ? `PCI device ${id}` : 'mediated device'} ${device.name}`,
    `driver ${driver}`,
    `group ${group.number}${group.isNoiommu ? ' (no IOMMU: its DMA reaches all memory)' : ''}`,
    ...(cdev === undefined ? [] : [cdev]),
    ...(isPci ? [resetMethods === undefined ? 'no reset' : `reset by ${resetMethods.join(', ')}`] : []),
    ...(physfn === undefined ? [] : [`VF of ${physfn}`]),
    // Of a vGPU that is a VF. Its name is on no list once it has it.
    ...(vfTypes === undefined ? [] : [`vGPU type ${vfTypes.current}`]),
    ...(numaNode === undefined ? [] : [`NUMA node ${numaNode}`]),
  ];
  return parts.join(', ');
}
