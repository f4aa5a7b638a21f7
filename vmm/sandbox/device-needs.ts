/** What the configured devices need of the host after the start. */
import { VHOST_NET_PATH, VHOST_PARAMETERS } from '../../devices/net/vhost-net.js';
import { pciAddress } from '../../vfio/addresses.js';
import { HOST_ROOTS } from '../../vfio/host/index.js';
import { isUuid } from '../../vfio/uuid.js';
import type { DeviceConfig } from '../config.js';
import type { ConfigProblem } from '../config-error.js';

/** Needs of all devices together. */
export interface DeviceNeeds {
  /** Devices by path, which are opened, read, written and controlled. */
  readonly nodes: readonly string[];
  /** Folders and files to read. */
  readonly read: readonly string[];
  /** Descriptors of the parent process. */
  readonly descriptors: readonly number[];
  readonly hasUnixSocket: boolean;
  readonly hasHostDevice: boolean;
  readonly hasTap: boolean;
  /** Whether the kernel may move the frames of a tap. */
  readonly hasVhost: boolean;
  readonly hasDisk: boolean;
  /** Disks to read, or to read and write. */
  readonly disks: readonly { readonly path: string; readonly isReadOnly: boolean }[];
  /** Files to write anew. */
  readonly captures: readonly string[];
  /** Devices that a sandbox excludes. */
  readonly problems: readonly ConfigProblem[];
}

const isHostAddress = (address: string): boolean =>
  pciAddress(address) !== undefined || isUuid(address) || /^(?:mdev|fd):/.test(address);

/** Descriptors that the options name: `fd:7`, `group-fd=8`. */
const hostDescriptors = ({ address, options }: DeviceConfig): number[] =>
  [
    ...(address.startsWith('fd:') ? [address.slice('fd:'.length)] : []),
    ...Object.entries(options).flatMap(([name, value]) => (name.endsWith('-fd') ? [value] : [])),
  ].map(Number);

function refusalOf({ address, options }: DeviceConfig): string | undefined {
  if (address.startsWith('mdev:') || options.bind !== undefined) {
    const what = options.bind === undefined ? 'mdev:TYPE' : 'bind=';
    return `${what} writes to sysfs, which a sandbox forbids: make the device ready before, and give its address`;
  }
  if (/^passt(?::|$)/.test(options.net ?? ''))
    return (
      'net=passt starts a program, which a sandbox forbids: start it before (passt --socket PATH), ' +
      'and give net=passt-socket:PATH'
    );
  return undefined;
}

export function needsOf(devices: readonly DeviceConfig[]): DeviceNeeds {
  const problems = devices.flatMap((device, i) => {
    const text = refusalOf(device);
    return text === undefined ? [] : [{ path: `devices[${i}]`, text }];
  });
  const { sys, dev, modules } = HOST_ROOTS;
  const host = devices.filter(({ address }) => isHostAddress(address));
  const nets = devices.map(({ options }) => options.net ?? '');
  const ports = devices
    .filter(({ address }) => address.startsWith('mtty'))
    .flatMap(({ options }) => Object.values(options));
  const disks = devices
    .filter(({ address }) => address === 'virtio-blk')
    .flatMap(({ options: { file = '', readonly, overlay, backing } }) => [
      { path: file, isReadOnly: readonly === 'on' || overlay !== undefined },
      ...(backing === undefined ? [] : [{ path: backing, isReadOnly: true }]),
      ...(overlay === undefined ? [] : [{ path: overlay, isReadOnly: false }]),
    ]);
  const captures = devices
    .filter(({ address, options }) => address === 'virtio-net' && options.pcap !== undefined)
    .map(({ options: { pcap = '' } }) => pcap);
  const taps = nets.filter((net) => /^(?:tap|vhost):/.test(net));
  const byDescriptor = taps.filter((net) => /^\w+:fd=/.test(net));
  const given = byDescriptor.flatMap((net) => net.replace(/^.*=/, '').split(':')).map(Number);
  const hasVhost = taps.some((net) => net.startsWith('vhost:'));
  return {
    nodes: [
      ...(host.length > 0 ? [`${dev}/vfio`] : []),
      ...(host.some((device) => device.interface === 'iommufd') ? [`${dev}/iommu`] : []),
      ...(taps.length > byDescriptor.length ? ['/dev/net/tun'] : []),
      ...(hasVhost ? [VHOST_NET_PATH] : []),
      ...(ports.includes('pty') ? ['/dev/ptmx', '/dev/pts'] : []),
    ],
    read: [...(host.length > 0 ? [sys, modules] : []), ...(hasVhost ? [VHOST_PARAMETERS] : [])],
    descriptors: [...host.flatMap(hostDescriptors), ...given],
    hasUnixSocket:
      devices.some(({ address }) => address.startsWith('vfio-user:')) ||
      nets.some((net) => net.startsWith('passt-socket:')) ||
      ports.some((port) => port.startsWith('unix:')),
    hasHostDevice: host.length > 0,
    hasTap: taps.length > 0,
    hasVhost,
    hasDisk: disks.length > 0,
    disks,
    captures,
    problems,
  };
}
