/** The part of a machine's configuration that is saved with it: what makes it this machine, and where its back-ends end. */
import { resolve } from 'node:path';
import { formatSlot } from '../../devices/pci/host-bridge.js';
import type { DeviceConfig, VmConfig, VmConfigInput } from '../config.js';

/** What of the host is chosen anew for each run: how KVM_RUN is called, what is traced, what the process may do. */
type Chosen = 'ffi' | 'trace' | 'sandbox';

/** @param devices those that are attached now, with their slots */
export function savedConfig(config: VmConfig, devices: readonly DeviceConfig[]): Omit<VmConfigInput, Chosen> {
  const { memory, ffi: _f, trace: _t, sandbox: _s, guest, kernel, initrd, ...rest } = config;
  const files = Object.entries({ guest, kernel, initrd }).flatMap(([name, path]) =>
    path === undefined ? [] : [[name, resolve(path)]],
  );
  return { ...rest, ...Object.fromEntries(files), memory: String(memory), devices: [...devices] };
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
