/** How the addresses of devices look, for those who have no provider yet: it is loaded when one of its devices is asked for. */
import type { VfioProvider } from './provider.js';

/** What a provider says of its addresses. */
type AddressForm = Required<Pick<VfioProvider, 'name' | 'addresses' | 'names' | 'needsSharedMemory'>>;

export const MDEV_PREFIX = 'mdev:';
export const FD_PREFIX = 'fd:';
export const VFIO_USER_PREFIX = 'vfio-user:';

/** Of the kernel's devices; the UUID of a mediated one is another's, too. */
export const HOST_ADDRESSES: AddressForm = {
  name: 'host',
  addresses:
    'a PCI address such as 0000:01:00.0, the UUID of a mediated device of the kernel, mdev:TYPE to make one, ' +
    'fd:N for an open cdev or group',
  names: [MDEV_PREFIX, FD_PREFIX],
  needsSharedMemory: false,
};

/** Of devices that other processes serve. */
export const USER_ADDRESSES: AddressForm = {
  name: 'vfio-user',
  addresses: `${VFIO_USER_PREFIX}PATH of a server's socket`,
  names: [VFIO_USER_PREFIX],
  needsSharedMemory: true,
};

const PCI_ADDRESS = /^(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}:[01][0-9a-f]\.[0-7])$/i;

/** Normalizes a PCI address: lower case, domain 0000 if it has none; undefined if `text` is not a PCI address. */
export function pciAddress(text: string): string | undefined {
  const match = PCI_ADDRESS.exec(text);
  return match === null ? undefined : `${match[1] ?? '0000'}:${match[2]}`.toLowerCase();
}

/** Whether it is one of {@link HOST_ADDRESSES}, but for UUIDs: of those, the host knows. */
export const isHostAddress = (address: string): boolean =>
  pciAddress(address) !== undefined || HOST_ADDRESSES.names.some((name) => address.startsWith(name));

export const isUserAddress = (address: string): boolean => address.startsWith(VFIO_USER_PREFIX);

/** As other programs and people write it: `1:0.0`, `0000:01:00`, `pci_0000_01_00_0`, a path in /sys. */
const LOOSE_ADDRESS =
  /^\s*(?:.*\/|pci[:_@-])?(?:([0-9a-f]{1,4})[:_])?([0-9a-f]{1,2})[:_]([01]?[0-9a-f])(?:[._:]([0-7]))?\s*$/i;

/** The PCI address, in full form, that a text which is none was probably meant to be. */
export function nearestPciAddress(text: string): string | undefined {
  const [, domain = '', bus = '', device = '', given] = LOOSE_ADDRESS.exec(text) ?? [];
  // Two short numbers alone can be anything: `fd:7`.
  const isWhole = given !== undefined || domain !== '' || bus.length + device.length === 4;
  if (bus === '' || !isWhole) return undefined;
  return `${domain.padStart(4, '0')}:${bus.padStart(2, '0')}:${device.padStart(2, '0')}.${given ?? 0}`.toLowerCase();
}
