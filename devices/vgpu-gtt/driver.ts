import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { MdevInstance, MdevType, VendorDriver } from '../../vfio/driver.js';
import { optionProblem, unknownOption } from '../../vfio/option-problem.js';
import { VgpuGttDevice } from './device.js';

/** An instance of the card. */
export interface VgpuGttInstance extends MdevInstance {
  /** The device's functions, and its display. */
  readonly ops: VgpuGttDevice;
}

const type: MdevType = {
  name: 'vgpu-gtt',
  description: 'display card whose pictures lie in guest memory, behind a table that it shadows; no options',
  deviceApi: 'vfio-pci',
  maxInstances: 64,
  options: [],
};

/**
 * The vendor driver `vgpu-gtt`: an example of what a driver uses the VM's pointer for. `create` throws SysError EINVAL for
 * any option.
 */
export function createVgpuGttDriver(): VendorDriver & {
  /** As {@link VendorDriver.create}. */
  create(...parameters: Parameters<VendorDriver['create']>): VgpuGttInstance;
} {
  return {
    name: 'vgpu-gtt',
    types: [type],
    checkOptions: (of, options) => optionProblem(() => refuseOptions(options, of.name)),
    create(of, uuid, options) {
      const name = `${of.name} ${uuid}`;
      refuseOptions(options, name);
      const ops = new VgpuGttDevice(name);
      return { ops, counters: () => ops.counters(), [Symbol.dispose]() {} };
    },
  };
}

function refuseOptions(options: Readonly<Record<string, string>>, target: string): void {
  const problems = Object.keys(options).map((name) => unknownOption(name, []));
  if (problems.length === 0) return;
  throw new SysError({ call: 'mdev create', target, errno: errno.EINVAL, hint: problems.join('; ') });
}
