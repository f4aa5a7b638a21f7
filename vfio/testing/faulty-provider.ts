import { disposable } from '../../sys/scope.js';
import type { VfioFileOps } from '../file-ops.js';
import type { VfioProvider } from '../provider.js';
import type { FaultInjector } from './fault-injector.js';

/** The calls that return a file with calls of its own, and that file's name in calls: `group.setContainer`. */
const FILES: Readonly<Record<string, string>> = {
  openContainer: 'container',
  openGroup: 'group',
  openIommufd: 'iommufd',
  openCdev: 'device',
  getDeviceFd: 'device',
};

/** The real files behind the wrapped ones, of all providers: kvm-vfio asks each of them whose a file is. */
const wrapped = new WeakMap<object, object>();

function unwrap(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(unwrap);
  return typeof value === 'object' && value !== null ? (wrapped.get(value) ?? value) : value;
}

/**
 * The provider, with each call that attaching or using a device makes of it counted by `faults`, and able to fail:
 * `provider.resolve`, `groups.openGroup`, `container.mapDma`, `device.setIrqs` ... Closing a file is no such call, as it
 * cannot fail. Its files are the provider's own, wrapped: pass them to this provider, and to kvm-vfio with its `fileOps`.
 * @param except methods that never fail and are not counted: `['read', 'write']` where each attach takes long
 */
export function faultyProvider(
  faults: FaultInjector,
  provider: VfioProvider,
  except: readonly string[] = [],
): VfioProvider {
  const wrap = <T extends object>(name: string, port: T): T => {
    const proxy = new Proxy(port, {
      get(target, key) {
        const value: unknown = Reflect.get(target, key, target);
        if (typeof value !== 'function') return value;
        if (typeof key !== 'string') return value.bind(target);
        return (...args: unknown[]) => {
          if (!except.includes(key)) faults.call(`${name}.${key}`);
          const result: unknown = value.apply(target, args.map(unwrap));
          const file = FILES[key];
          return file === undefined ? result : wrap(file, result as object);
        };
      },
    });
    wrapped.set(proxy, port);
    return proxy;
  };
  const { groups, cdevs, fileOps } = provider;
  return {
    name: provider.name,
    addresses: provider.addresses,
    ...(provider.needsSharedMemory === undefined ? {} : { needsSharedMemory: provider.needsSharedMemory }),
    matches: (address) => provider.matches(address),
    checkOptions: (address, options) => provider.checkOptions?.(address, options),
    prepare(devices) {
      faults.call('provider.prepare');
      return provider.prepare?.(devices) ?? disposable(() => {});
    },
    resolve(address, options) {
      faults.call('provider.resolve');
      return provider.resolve(address, options);
    },
    ...(groups === undefined ? {} : { groups: wrap('groups', groups) }),
    ...(cdevs === undefined ? {} : { cdevs: wrap('cdevs', cdevs) }),
    ...(fileOps === undefined ? {} : { fileOps: opsOfWrapped(fileOps) }),
  };
}

function opsOfWrapped(ops: VfioFileOps): VfioFileOps {
  const real = (file: object): object => unwrap(file) as object;
  return {
    isValid: (file) => ops.isValid(real(file)),
    setKvm: (file, kvm) => ops.setKvm(real(file), kvm),
    enforcedCoherent: (file) => ops.enforcedCoherent(real(file)),
  };
}
