import { Scope } from '../../sys/scope.js';
import { HOST_ADDRESSES, isHostAddress, pciAddress } from '../addresses.js';
import { optionProblem } from '../option-problem.js';
import type { VfioProvider } from '../provider.js';
import { isUuid } from '../uuid.js';
import { cdevHolders, openCdev, tokenProblem } from './cdev.js';
import { HostContainerFile } from './container.js';
import { type HostContext, hostContext } from './context.js';
import { HostDeviceFile } from './device.js';
import { HostGroupFile } from './group.js';
import { HostIommufdFile } from './iommufd.js';
import { Preopened } from './preopened.js';
import { checkOptions, resolve } from './resolve.js';
import { RunBindings } from './run-bindings.js';

/** The kernel as a provider. If the kernel lacks one of the interfaces, opening its files fails with ENODEV. */
export type HostProvider = VfioProvider &
  Required<Pick<VfioProvider, 'groups' | 'cdevs'>> & {
    /** The host that it uses, for checks of its devices. */
    readonly context: HostContext;
  };

/**
 * The Linux kernel's VFIO as a provider: PCI functions by address, mediated devices by UUID or created with
 * `mdev:TYPE`, and files that a parent process opened, by `fd:N`. Opens no file before a call needs it.
 * @param parts parts of another host, for tests
 */
export function hostProvider(parts: Partial<HostContext> = {}): HostProvider {
  const context = hostContext(parts);
  const preopened = new Preopened();
  const bindings = new RunBindings(context);
  return {
    ...HOST_ADDRESSES,
    context,
    matches: (address) =>
      isHostAddress(address) ||
      // Mediated devices of this process have UUIDs, too.
      (isUuid(address) && context.sysfs.hasMdev(address.toLowerCase())),
    checkOptions: (address, options) => optionProblem(() => checkOptions(address, options)),
    prepare(devices) {
      using scope = new Scope();
      for (const { address, options = {} } of devices) {
        const pci = pciAddress(address);
        if (pci !== undefined && options.bind !== undefined) scope.own(bindings.bind(pci, options.bind));
      }
      return scope.move();
    },
    resolve: (address, options) => resolve(context, { preopened, bindings }, address, options),
    groups: {
      openContainer() {
        const file = preopened.take('container');
        return file === undefined ? HostContainerFile.open(context) : HostContainerFile.adopt(context, file);
      },
      openGroup(group) {
        const file = preopened.take(`group ${group}`);
        return file === undefined ? HostGroupFile.open(context, group) : HostGroupFile.adopt(context, file);
      },
    },
    cdevs: {
      openIommufd() {
        const file = preopened.take('iommufd');
        return file === undefined ? HostIommufdFile.open(context) : HostIommufdFile.adopt(context, file);
      },
      openCdev(node) {
        const file = preopened.take(`cdev ${node}`) ?? openCdev(context, node);
        return HostDeviceFile.adopt(file, {
          holders: cdevHolders(context, node),
          tokenProblem: () => tokenProblem(context),
        });
      },
    },
  };
}
