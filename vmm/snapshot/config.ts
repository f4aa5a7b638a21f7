/** The part of a machine's configuration that is saved with it: what makes it this machine, and where its back-ends end. */
import { resolve } from 'node:path';
import { formatSlot } from '../../devices/pci/host-bridge.js';
import type { DeviceConfig, VmConfig, VmConfigInput } from '../config.js';

/** What of the host is chosen anew for each run: how KVM is used, what is traced, what the process may do. */
type Chosen = 'ffi' | 'dirtyRing' | 'trace' | 'sandbox';

/** A configuration as it is saved. */
export type SavedConfig = Omit<VmConfigInput, Chosen> & {
  /** Devices that were unplugged to save the others: they are plugged again once the machine is restored. */
  readonly unplugged?: readonly DeviceConfig[];
};

/** @param devices those that are attached now, with their slots @param unplugged see {@link SavedConfig} */
export function savedConfig(
  config: VmConfig,
  devices: readonly DeviceConfig[],
  unplugged: readonly DeviceConfig[] = [],
): SavedConfig {
  const { memory, ffi: _f, dirtyRing: _d, trace: _t, sandbox: _s, guest, kernel, initrd, ...rest } = config;
  const files = Object.entries({ guest, kernel, initrd }).flatMap(([name, path]) =>
    path === undefined ? [] : [[name, resolve(path)]],
  );
  const late = unplugged.length === 0 ? {} : { unplugged };
  return { ...rest, ...Object.fromEntries(files), memory: String(memory), devices: [...devices], ...late };
}

/** What a saved state depends on, as plain text by name. */
export type Machine = Readonly<Record<string, string>>;

/** @param devices in their slots */
export function describeMachine(
  { memory, vcpus, kernel, serial }: Pick<VmConfig, 'memory' | 'vcpus' | 'kernel' | 'serial'>,
  devices: readonly Pick<DeviceConfig, 'address' | 'slot' | 'function'>[],
): Machine {
  const places = devices.map(({ address, slot = 0, function: number = 0 }): [string, string] => [
    `device ${formatSlot({ device: slot, function: number })}`,
    address,
  ]);
  return {
    'bytes of memory': `${memory}`,
    vCPUs: `${vcpus}`,
    'kind of guest': kernel === undefined ? 'an image' : 'a kernel',
    'serial ports': serial.flatMap((end, port) => (end === 'none' ? [] : `COM${port + 1}`)).join(' '),
    ...Object.fromEntries(places.sort()),
  };
}

/** The first difference, as a sentence; undefined if there is none. */
export function differenceOf(saved: Machine, now: Machine): string | undefined {
  const name = [...new Set([...Object.keys(saved), ...Object.keys(now)])].find(
    (each) => saved[each] !== now[each],
  );
  if (name === undefined) return undefined;
  return `${name}: it was saved with ${saved[name] ?? 'none'}, and this machine has ${now[name] ?? 'none'}`;
}

/** What a folder's configuration says, not validated: with all of its devices, also those that were unplugged. */
export function wholeConfig(saved: Readonly<Record<string, unknown>>): {
  readonly input: Readonly<Record<string, unknown>>;
  /** Whether a device in this slot is plugged once the others go on. */
  readonly isLate: (slot: number | undefined) => boolean;
} {
  const { unplugged = [], ...input } = saved;
  const late: readonly unknown[] = Array.isArray(unplugged) ? unplugged : [unplugged];
  if (late.length === 0) return { input, isLate: () => false };
  const slots = new Set(late.map((device) => (Object(device) as { readonly slot?: unknown }).slot));
  const devices = Array.isArray(input.devices) ? input.devices : [];
  return {
    input: { ...input, devices: [...devices, ...late] },
    isLate: (slot) => slot !== undefined && slots.has(slot),
  };
}
