/**
 * vGPUs that are VFs: the driver of a card offers types for its VFs, and writing the ID of one to a VF's attribute makes it a vGPU,
 * which the same driver then gives to VFIO. As NVIDIA's vGPU software 17 and later have it; there are no mediated devices then.
 */
import { closeSync, existsSync, openSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { errno } from '../../sys/errno.js';
import { fromNodeError, SysError } from '../../sys/error.js';
import { printable } from '../../sys/printable.js';
import { disposable } from '../../sys/scope.js';
import { list, type Sysfs, type SysfsDevice } from './sysfs.js';

/** A type that a VF can have. */
export interface VfType {
  /** The number that the attribute takes. */
  readonly id: number;
  /** As the driver has it: `NVIDIA L40S-8Q`. May contain whatever that does. */
  readonly name: string;
}

/** The types of one VF, as its attributes say now. */
export interface VfTypes {
  /** The ID of the type that it has; 0 if it has none. */
  readonly current: number;
  /** The types that it could be given: what is left of its card decides. */
  readonly creatable: readonly VfType[];
}

/** A VF with its types, or with what is wrong with its attributes. */
export interface VfTypesRecord {
  /** Its PCI address. */
  readonly address: string;
  /** Its physical function; undefined if the kernel names none. */
  readonly physfn: string | undefined;
  /** Undefined if an attribute cannot be read, or says what cannot be. */
  readonly types: VfTypes | undefined;
  /** Why there are no `types`; undefined if there are. */
  readonly problem: string | undefined;
}

const CURRENT = 'nvidia/current_vgpu_type';
const CREATABLE = 'nvidia/creatable_vgpu_types';
/** An attribute of sysfs has a page at most. */
const MOST_BYTES = 65_536;
const MOST_TYPES = 256;
const MOST_NAME = 128;
const MOST_ID = 2 ** 32 - 1;
/** Types that an error names. */
const MOST_NAMED = 12;

/** Whether a PCI function's driver offers types for it. */
export const hasVfTypes = ({ path }: Pick<SysfsDevice, 'path'>): boolean => existsSync(join(path, CURRENT));

/**
 * Reads the types of a VF; undefined if its driver offers none.
 * @throws SysError with the attribute: the errno of read(2), or EPROTO if it says what cannot be
 */
export function readVfTypes(device: Pick<SysfsDevice, 'path'>): VfTypes | undefined {
  if (!hasVfTypes(device)) return undefined;
  const [current, creatable] = [join(device.path, CURRENT), join(device.path, CREATABLE)];
  return {
    current: parseCurrent(current, read(current)),
    creatable: parseCreatable(creatable, read(creatable)),
  };
}

/** All VFs of the host whose driver offers types for them. Throws nothing: a VF with odd attributes has its problem named. */
export function listVfTypes(sysfs: Sysfs): VfTypesRecord[] {
  return (list(sysfs.path('bus/pci/devices')) ?? []).flatMap((address) => {
    if (!sysfs.exists('bus/pci/devices', address, CURRENT)) return [];
    try {
      return vfTypesRecord(sysfs.pciDevice(address)) ?? [];
    } catch (error) {
      if (error instanceof SysError) return []; // it has gone meanwhile
      throw error;
    }
  });
}

/** The record of one function; undefined if its driver offers no types. */
export function vfTypesRecord(device: SysfsDevice): VfTypesRecord | undefined {
  const { name: address, physfn } = device;
  try {
    const types = readVfTypes(device);
    return types && { address, physfn, types, problem: undefined };
  } catch (error) {
    if (!(error instanceof SysError)) throw error;
    return { address, physfn, types: undefined, problem: error.message.replaceAll('\n', ' ') };
  }
}

/**
 * The type that a VF can be given by a name, `NVIDIA L40S-8Q`, by its last word, `L40S-8Q`, or by its ID.
 * @throws SysError ENOTSUP if its driver offers no types; EBUSY if it has one; ENOSPC if none would fit; EINVAL for another
 *   name, with those that would fit; as {@link readVfTypes}
 */
export function findVfType(device: SysfsDevice, wanted: string): VfType {
  const call = 'set vGPU type';
  const target = `${device.name} to ${printable(wanted)}`;
  const types = readVfTypes(device);
  const failed = (code: 'ENOTSUP' | 'EBUSY' | 'ENOSPC' | 'EINVAL', hint: string) =>
    new SysError({ call, target, errno: errno[code], hint });
  if (types === undefined) throw failed('ENOTSUP', noTypes(device));
  const { current, creatable } = types;
  const path = join(device.path, CURRENT);
  if (current !== 0)
    throw failed(
      'EBUSY',
      `${path} has type ${current}: leave the option out to use it as it is, or: echo 0 > ${path}`,
    );
  const found =
    creatable.find(({ name }) => name === wanted) ??
    creatable.find(({ id, name }) => name.split(' ').at(-1) === wanted || String(id) === wanted);
  if (found !== undefined) return found;
  const list = join(device.path, CREATABLE);
  if (creatable.length === 0) throw failed('ENOSPC', `${list} is empty: nothing is left of the card`);
  throw failed('EINVAL', `${list} has no such type; those that would fit: ${typesText(creatable)}`);
}

/**
 * Gives a VF a type, which makes it a vGPU. Disposing the result takes it back.
 * @throws SysError as {@link findVfType}; the errno of write(2); EIO if the driver took another one. The VF then has none
 */
export function setVfType(sysfs: Sysfs, device: SysfsDevice, wanted: string): Disposable {
  const { id, name } = findVfType(device, wanted);
  const path = join(device.path, CURRENT);
  const takeBack = () => {
    if (existsSync(path)) sysfs.write(path, '0\n', 'the VF keeps its type until the driver takes it back');
  };
  const { creatable } = readVfTypes(device) ?? { creatable: [] };
  sysfs.write(
    path,
    `${id}\n`,
    `the driver refused ${printable(name)}; those that would fit: ${typesText(creatable)}`,
  );
  try {
    const now = parseCurrent(path, read(path));
    if (now === id) return disposable(takeBack);
    const hint = `${path} has ${now} after ${id} was written: see dmesg`;
    throw new SysError({ call: 'set vGPU type', target: device.name, errno: errno.EIO, hint });
  } catch (error) {
    takeBack();
    throw error;
  }
}

/** EBUSY for a VF that needs a type first, with those that would fit; undefined for any other function. */
export function withoutType(device: SysfsDevice): SysError | undefined {
  const types = readVfTypes(device);
  if (types === undefined || types.current !== 0) return undefined;
  const fitting =
    types.creatable.length === 0 ? 'none, as nothing is left of the card' : typesText(types.creatable);
  const hint = `it is a VF for vGPUs and has no type: option vgpu-type=NAME gives it one for the run; those that would fit: ${fitting}`;
  return new SysError({ call: 'attach', target: device.name, errno: errno.EBUSY, hint });
}

function noTypes({ path, physfn, virtfns }: SysfsDevice): string {
  const missing = `there is no ${join(path, CURRENT)}`;
  if (physfn !== undefined) return `${missing}: the card's driver offers no types of vGPUs for its VFs`;
  if (virtfns.length > 0)
    return `${missing}: types are those of its VFs, ${virtfns.slice(0, MOST_NAMED).join(', ')}`;
  const numvfs = join(path, 'sriov_numvfs');
  return existsSync(numvfs)
    ? `${missing}: types are those of VFs, and it has none; the vendor's tool makes them, or: echo N > ${numvfs}`
    : `${missing}: types are those of VFs, and it is none`;
}

const typesText = (types: readonly VfType[]): string => {
  const named = types.slice(0, MOST_NAMED).map(({ id, name }) => `${printable(name)} (${id})`);
  const others = types.length - named.length;
  return [...named, ...(others > 0 ? [`${others} more`] : [])].join(', ') || 'none';
};

/** As much of an attribute as there can be, and a byte more. */
function read(path: string): string {
  try {
    const fd = openSync(path, 'r');
    try {
      const bytes = new Uint8Array(MOST_BYTES + 1);
      let length = 0;
      for (;;) {
        const count = readSync(fd, bytes, length, bytes.length - length, null);
        length += count;
        if (count === 0 || length === bytes.length) break;
      }
      if (length > MOST_BYTES) throw odd(path, `it has more than ${MOST_BYTES} bytes`);
      return Buffer.from(bytes.buffer, 0, length).toString('utf8');
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    throw error instanceof SysError ? error : fromNodeError(error, 'read', path);
  }
}

const odd = (path: string, what: string): SysError =>
  new SysError({
    call: 'read',
    target: path,
    errno: errno.EPROTO,
    hint: `${what}: no driver of vGPUs that is known writes that`,
  });

function parseCurrent(path: string, text: string): number {
  const line = text.trim();
  if (/^\d{1,10}$/.test(line) && Number(line) <= MOST_ID) return Number(line);
  throw odd(path, `'${printable(line.slice(0, 40))}' is no ID of a type`);
}

/** Lines of `ID : NAME`, below a line that says so, or not. */
function parseCreatable(path: string, text: string): readonly VfType[] {
  const types = new Map<number, VfType>();
  for (const [i, line] of text.split('\n').entries()) {
    const trimmed = line.trim();
    if (trimmed === '' || (types.size === 0 && /^id\s*:/i.test(trimmed))) continue;
    const [, number = '', name = ''] = /^(\d{1,10})\s*:\s*(.+)$/.exec(trimmed) ?? [];
    const id = Number(number);
    const where = `line ${i + 1}, '${printable(trimmed.slice(0, 40))}',`;
    if (number === '' || id < 1 || id > MOST_ID) throw odd(path, `${where} is not of the form ID : NAME`);
    if (name.length > MOST_NAME) throw odd(path, `${where} has a name of ${name.length} characters`);
    if (types.has(id)) throw odd(path, `${where} has the ID of another line`);
    if (types.size === MOST_TYPES) throw odd(path, `it has more than ${MOST_TYPES} types`);
    types.set(id, { id, name });
  }
  return [...types.values()];
}
