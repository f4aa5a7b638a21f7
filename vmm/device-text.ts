import { usageError } from './command-line.js';
import { parseAddress } from './device-address.js';

/** Whether a text names a slot of the guest's bus that a device can have. */
export const isSlot = (text: string): boolean =>
  /^\d{1,2}$/.test(text) && Number(text) >= 1 && Number(text) <= 31;

/** A place on the guest's bus: `5`, `5.1`. */
const PLACE = /^(\d{1,2})(?:\.([0-7]))?$/;
export const isPlace = (text: string): boolean => isSlot(PLACE.exec(text)?.[1] ?? '');
export const placeProblem = (text: string): string =>
  `slot=${text} is not a PCI slot: 1 to 31, or a function of one: 5.1`;

/** Parses a slot with or without a function of it. @param where names it in problems @throws ConfigError */
export function parsePlace(
  text: string,
  where: string,
): { readonly slot: number; readonly function: number } {
  const [, slot = '', number = '0'] = PLACE.exec(text) ?? [];
  if (isSlot(slot)) return { slot: Number(slot), function: Number(number) };
  throw usageError(where, `'${text}' is not a PCI slot: 1 to 31, or a function of one: 5.1`);
}

/** Parses a slot. @param where names it in problems @throws ConfigError */
export function parseSlot(text: string, where: string): number {
  if (isSlot(text)) return Number(text);
  throw usageError(where, `'${text}' is not a PCI slot: 1 to 31`);
}

/**
 * A disk as the command line takes it: `root.img,readonly,slot=5`. It is a device `virtio-blk`.
 * @throws ConfigError
 */
export function parseDisk(text: string): unknown {
  const [file = '', ...rest] = text.split(',');
  const options = rest.map((option) => (option === 'readonly' ? 'readonly=on' : option));
  return parseDevice(['virtio-blk', `file=${file}`, ...options].join(','), `--disk ${text}`);
}

/**
 * A device as the command line takes it: `virtio-net,net=passt,slot=5`.
 * @param where names it in problems
 * @returns the data of a configuration
 * @throws ConfigError
 */
export function parseDevice(text: string, where: string): unknown {
  const { address, options: deviceOptions } = parseAddress(text, where);
  const { slot, interface: how, ...others } = deviceOptions;
  const [, device, number] = PLACE.exec(slot ?? '') ?? [];
  if (slot !== undefined && device === undefined) throw usageError(where, placeProblem(slot));
  if (how !== undefined && how !== 'group' && how !== 'iommufd')
    throw usageError(where, `interface=${how} is neither group nor iommufd`);
  return {
    address,
    options: others,
    ...(device === undefined ? {} : { slot: Number(device) }),
    ...(number === undefined ? {} : { function: Number(number) }),
    ...(how === undefined ? {} : { interface: how }),
  };
}
