// README's program, and some names of each entry, as strict TypeScript.
import { constants } from 'node:os';
import { parseConfig, type RunReport, SysError, VirtualMachine } from 'tsvisor';
import { ConfigSpace } from 'tsvisor/devices';
import { Kvm } from 'tsvisor/kvm';
import { vfioConformance } from 'tsvisor/testing';
import { type VendorDriver, VfioCore } from 'tsvisor/vfio';

export async function report(): Promise<RunReport> {
  const config = parseConfig({ memory: '64M', devices: [{ address: 'virtio-net' }] });
  const vm = VirtualMachine.start(config, { serial: (bytes) => process.stdout.write(bytes) });
  return vm.finished;
}

export function types(driver: VendorDriver): string[] {
  const error: Error = new SysError({ call: 'open', target: '/dev/kvm', errno: constants.errno.ENOENT });
  return [error.message, ...driver.types.map(({ name }) => name)];
}

export const classes = [ConfigSpace, Kvm, VfioCore];
export const conformance: typeof vfioConformance = vfioConformance;
