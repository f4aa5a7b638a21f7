import type { VfioFileOps } from '../file-ops.js';
import type { AssignableDevice, VfioProvider } from '../provider.js';
import { sriovWith } from '../sriov.js';
import { vfioError } from '../vfio-error.js';
import { CoreContainerFile } from './container.js';
import { CoreDeviceFile } from './device-file.js';
import { CoreGroupFile } from './group-file.js';
import { CoreIommufdFile } from './iommufd.js';
import type { Mdev, Mdevs } from './mdev.js';
import type { CoreRegistry } from './registry.js';

/** A core as a provider: it has the group and the cdev interface, and its files have no descriptors. */
export type CoreProvider = VfioProvider & Required<Pick<VfioProvider, 'groups' | 'cdevs' | 'fileOps'>>;

/** A core as a provider. An address is a type of mediated device, or the UUID of an existing one. */
export function coreProvider(registry: CoreRegistry, mdevs: Mdevs, fileOps: VfioFileOps): CoreProvider {
  const addVf = (physfn: Mdev, index: number): AssignableDevice => {
    const vf = registry.environment.executor.run(mdevs.createVf(physfn, index));
    return assignable(vf, undefined, () => remove(registry, mdevs, vf), addVf);
  };
  return {
    name: 'core',
    fileOps,
    get addresses() {
      const names = mdevs.types.map(({ name }) => name).join(', ');
      return `a mediated device of this process: ${names || 'no driver is registered'}`;
    },
    get names() {
      return mdevs.types.map(({ name }) => name);
    },
    matches: (address) => mdevs.findType(address) !== undefined || mdevs.find(address) !== undefined,
    checkOptions: (address, { 'vf-token': _, ...options }) => mdevs.checkOptions(address, options),
    resolve(address, given) {
      const { 'vf-token': vfToken, ...options } = given;
      const known = mdevs.find(address);
      if (known !== undefined) return assignable(known, vfToken, () => undefined, addVf);
      if (mdevs.findType(address) === undefined) {
        throw vfioError('resolve', address, 'ENODEV', 'no vendor driver has a type of that name');
      }
      const mdev = registry.environment.executor.run(mdevs.create(address, undefined, options));
      return assignable(mdev, vfToken, () => remove(registry, mdevs, mdev), addVf);
    },
    groups: {
      openContainer: () => CoreContainerFile.open(registry.environment),
      openGroup: (group) => registry.environment.executor.run(CoreGroupFile.openSteps(registry, group)),
    },
    cdevs: {
      openIommufd: () => CoreIommufdFile.open(registry.environment),
      openCdev: (node) => CoreDeviceFile.openCdev(registry, node),
    },
  };
}

/** A device in use is removed once its last file is closed. */
function remove(registry: CoreRegistry, mdevs: Mdevs, { uuid }: Mdev): void {
  if (mdevs.find(uuid) === undefined) return;
  registry.environment.executor
    .start(`remove ${uuid}`, mdevs.remove(uuid))
    .catch((error: unknown) => registry.environment.warn(`mdev ${uuid}: ${String(error)}`));
}

function assignable(
  mdev: Mdev,
  vfToken: string | undefined,
  release: () => void,
  addVf: (physfn: Mdev, index: number) => AssignableDevice,
): AssignableDevice {
  const { uuid, type, device, instance, vf } = mdev;
  const { sriov, inputKind } = instance;
  const counters = instance.counters?.bind(instance);
  const vectorCounts = instance.vectorCounts?.bind(instance);
  const inject = instance.inject?.bind(instance);
  const input = instance.input?.bind(instance);
  const parent = instance.parent?.bind(instance);
  return {
    name: vfToken === undefined ? uuid : `${uuid} vf_token=${vfToken}`,
    ...(vfToken === undefined ? {} : { vfToken }),
    group: device.group.number,
    cdev: device.cdev,
    description:
      vf === undefined
        ? `${type.description} (mediated device ${uuid}, ${type.deviceApi})`
        : `VF ${vf.index} of ${type.name} (mediated device ${uuid}, ${type.deviceApi})`,
    ...(counters === undefined ? {} : { counters }),
    ...(vectorCounts === undefined ? {} : { vectorCounts }),
    ...(inject === undefined ? {} : { inject }),
    ...(input === undefined ? {} : { input }),
    ...(inputKind === undefined ? {} : { inputKind }),
    ...(sriov === undefined ? {} : { sriov: sriovWith(sriov, (index) => addVf(mdev, index)) }),
    ...(parent === undefined ? {} : { parent }),
    [Symbol.dispose]: release,
  };
}
