/**
 * The devices of this package for a machine: each driver and provider is loaded when one of its devices is asked for, so that a
 * start compiles none that it does not use. Machine thread only.
 */
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { overlay } from '../sys/overlay.js';
import { workerUrl } from '../sys/worker-url.js';
import { HOST_ADDRESSES, isHostAddress, isUserAddress, USER_ADDRESSES } from '../vfio/addresses.js';
import type { VfioCore } from '../vfio/core/core.js';
import type { VendorDriver } from '../vfio/driver.js';
import type { VfioProvider } from '../vfio/provider.js';
import { isUuid } from '../vfio/uuid.js';
import { createCore, type DeviceSources } from './assign/ports.js';

/** By their path from the project's root; entries of rolldown.config.js. */
export interface Modules {
  'devices/virtio-net/driver.js': typeof import('../devices/virtio-net/driver.js');
  'devices/virtio-blk/driver.js': typeof import('../devices/virtio-blk/driver.js');
  'devices/virtio-gpu/driver.js': typeof import('../devices/virtio-gpu/driver.js');
  'devices/virtio-input/driver.js': typeof import('../devices/virtio-input/driver.js');
  'devices/mtty/driver.js': typeof import('../devices/mtty/driver.js');
  'devices/vgpu/driver.js': typeof import('../devices/vgpu/driver.js');
  'devices/vgpu-gtt/driver.js': typeof import('../devices/vgpu-gtt/driver.js');
  'devices/testcard/driver.js': typeof import('../devices/testcard/driver.js');
  'vfio/host/index.js': typeof import('../vfio/host/index.js');
  'vfio/user/index.js': typeof import('../vfio/user/index.js');
}

/** Loads a module, and returns when it has run. */
export type Load = <Path extends keyof Modules>(path: Path) => Modules[Path];

const require = createRequire(import.meta.url);

/**
 * Not by `import()`: a device may be attached while this thread runs the guest, which awaits nothing. Node loads ES modules so from
 * 20.19 on.
 */
const loadBuilt: Load = (path) => require(fileURLToPath(workerUrl(path)));

interface Driver {
  /** Matches the names of its types, and no other driver's. */
  readonly types: RegExp;
  create(load: Load): VendorDriver;
}

const DRIVERS: readonly Driver[] = [
  { types: /^virtio-net$/, create: (load) => load('devices/virtio-net/driver.js').createVirtioNetDriver() },
  { types: /^virtio-blk$/, create: (load) => load('devices/virtio-blk/driver.js').createVirtioBlkDriver() },
  { types: /^virtio-gpu$/, create: (load) => load('devices/virtio-gpu/driver.js').createVirtioGpuDriver() },
  {
    types: /^virtio-input$/,
    create: (load) => load('devices/virtio-input/driver.js').createVirtioInputDriver(),
  },
  { types: /^mtty-/, create: (load) => load('devices/mtty/driver.js').createMttyDriver() },
  { types: /^vgpu-(?!gtt$)/, create: (load) => load('devices/vgpu/driver.js').createVgpuDriver() },
  { types: /^vgpu-gtt$/, create: (load) => load('devices/vgpu-gtt/driver.js').createVgpuGttDriver() },
  { types: /^testcard$/, create: (load) => load('devices/testcard/driver.js').createTestCardDriver() },
];

/**
 * A core whose drivers come when a type of theirs is named, the kernel, and vfio-user. Not for a machine with plug-ins, whose drivers
 * may not have names that are taken.
 * @param load another loader, for tests from source files
 */
export const devicesOnDemand = (load: Load = loadBuilt): DeviceSources => ({
  core: (get, scope) => createCore(get('eventThread'), scope, []),
  providers: [
    (get) => {
      const [core, eventThread] = [get('core'), get('eventThread')];
      return demanding(core.provider, (driver) =>
        core.registerVendorDriver(driver.create(load), { eventThread }),
      );
    },
    () => {
      const host = late(HOST_ADDRESSES, () => load('vfio/host/index.js').hostProvider());
      return overlay(host, {
        matches: (address: string) => isHostAddress(address) || (isUuid(address) && host.matches(address)),
      });
    },
    (get) =>
      late({ ...USER_ADDRESSES, matches: isUserAddress }, () =>
        load('vfio/user/index.js').userProvider(get('eventThread')),
      ),
  ],
});

/** A core's provider that asks for a driver before it says whether there is a type. */
function demanding(provider: VfioCore['provider'], register: (driver: Driver) => void): VfioCore['provider'] {
  const missing = new Set(DRIVERS);
  const demand = (isWanted: (driver: Driver) => boolean): void => {
    for (const driver of [...missing].filter(isWanted)) {
      register(driver);
      missing.delete(driver);
    }
  };
  return overlay(provider, {
    matches(address: string): boolean {
      demand(({ types }) => types.test(address));
      return provider.matches(address);
    },
    // For a person who has named what there is not.
    get names() {
      demand(() => true);
      return provider.names ?? [];
    },
    get addresses() {
      demand(() => true);
      return provider.addresses;
    },
  });
}

/** A provider that is loaded when something else of it than these facts is used; it has no `fileOps`. */
function late(facts: Partial<VfioProvider>, load: () => VfioProvider): VfioProvider {
  let loaded: VfioProvider | undefined;
  const provider = (): VfioProvider => {
    loaded ??= load();
    return loaded;
  };
  const known = { ...facts, fileOps: undefined };
  return new Proxy({} as VfioProvider, {
    has: (_, name) => Object.hasOwn(known, name) || name in provider(),
    get: (_, name) => Reflect.get(Object.hasOwn(known, name) ? known : provider(), name),
  });
}
