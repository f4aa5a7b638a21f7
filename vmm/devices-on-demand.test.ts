import { expect, test } from 'vitest';
import * as mtty from '../devices/mtty/driver.js';
import * as testcard from '../devices/testcard/driver.js';
import * as vgpu from '../devices/vgpu/driver.js';
import * as vgpuGtt from '../devices/vgpu-gtt/driver.js';
import * as virtioBlk from '../devices/virtio-blk/driver.js';
import * as virtioGpu from '../devices/virtio-gpu/driver.js';
import * as virtioInput from '../devices/virtio-input/driver.js';
import * as virtioNet from '../devices/virtio-net/driver.js';
import { EventThread } from '../sys/event-task.js';
import { InlineEventThread } from '../sys/inline-event-thread.js';
import { Scope } from '../sys/scope.js';
import { Assignment, type AssignmentParts } from '../vfio/assign/index.js';
import * as host from '../vfio/host/index.js';
import { VfioProvider } from '../vfio/provider.js';
import { providerOf } from '../vfio/provider-of.js';
import * as user from '../vfio/user/index.js';
import { builtIns, vendorDrivers } from './assign/built-ins.js';
import type { DeviceSources } from './assign/ports.js';
import { registerPortsFrom } from './assign/register.js';
import { devicesOnDemand, type Load, type Modules } from './devices-on-demand.js';
import { container as root } from './injection.js';

const MODULES: Modules = {
  'devices/virtio-net/driver.js': virtioNet,
  'devices/virtio-blk/driver.js': virtioBlk,
  'devices/virtio-gpu/driver.js': virtioGpu,
  'devices/virtio-input/driver.js': virtioInput,
  'devices/mtty/driver.js': mtty,
  'devices/vgpu/driver.js': vgpu,
  'devices/vgpu-gtt/driver.js': vgpuGtt,
  'devices/testcard/driver.js': testcard,
  'vfio/host/index.js': host,
  'vfio/user/index.js': user,
};

function providersOf(sources: DeviceSources, scope: Scope): readonly VfioProvider[] {
  const container = root.createChildContainer();
  const eventThread = scope.own(new InlineEventThread(new Map()));
  container.register(EventThread, { useValue: eventThread });
  registerPortsFrom(container, {}, sources, scope);
  return container.resolveAll<VfioProvider>(VfioProvider);
}

/** Providers on demand, and what they have loaded. */
function onDemand(scope: Scope) {
  const loaded: string[] = [];
  const load: Load = (path) => {
    loaded.push(path);
    return MODULES[path];
  };
  return { providers: providersOf(devicesOnDemand(load), scope), loaded };
}

test.each(vendorDrivers().flatMap(({ name, types }) => types.map((type) => [type.name, name])))(
  '%s loads the driver %s, once, and nothing else',
  (type, driver) => {
    using scope = new Scope();
    const { providers, loaded } = onDemand(scope);
    for (const _ of [1, 2]) {
      expect(providerOf(providers, type)?.name).toBe('core');
      expect(loaded).toEqual([`devices/${driver}/driver.js`]);
    }
  },
);

test.each([
  ['0000:01:00.0', 'host'],
  ['1:00.0', undefined],
  ['mdev:nvidia-35', 'host'],
  ['fd:7', 'host'],
  ['vfio-user:/run/nic.sock', 'vfio-user'],
])('%s is of %s, and nothing is loaded to know it', (address, name) => {
  using scope = new Scope();
  const { providers, loaded } = onDemand(scope);
  expect(providerOf(providers, address)?.name).toBe(name);
  expect(loaded).toEqual([]);
});

test('a UUID, which may be of either side, loads the kernel’s provider', () => {
  using scope = new Scope();
  const { providers, loaded } = onDemand(scope);
  expect(providerOf(providers, 'b1a9a2c4-0000-4000-8000-000000000000')).toBeUndefined();
  expect(loaded).toEqual(['vfio/host/index.js']);
});

test('the providers are those of the package: the same facts for messages, the same answers about options', () => {
  using scope = new Scope();
  const { providers } = onDemand(scope);
  const all = providersOf(builtIns, scope);
  const facts = ({ name, addresses, names, needsSharedMemory = false, fileOps }: VfioProvider) => [
    name,
    addresses.split(/[ ,]+/).sort(),
    [...(names ?? [])].sort(),
    needsSharedMemory,
    fileOps !== undefined,
  ];
  expect(providers.map(facts)).toEqual(all.map(facts));
  for (const address of [
    'virtio-net',
    'vgpu-gtt',
    '0000:01:00.0',
    'mdev:',
    'vfio-user:',
    'vfio-user:/a',
    'vgpu-x',
    'x',
  ])
    for (const options of [{}, { nothing: 'of this name' }, { timeout: '-1' }]) {
      const answer = (of: readonly VfioProvider[]) =>
        providerOf(of, address)?.checkOptions?.(address, options);
      expect(answer(providers)).toBe(answer(all));
    }
});

test('devices that are attached together load no other provider, whose devices they are not', () => {
  using scope = new Scope();
  const { providers, loaded } = onDemand(scope);
  // All that `together` uses of it, before the devices are opened one by one.
  const assignment = new Assignment({ providers } as AssignmentParts);
  const devices = [{ address: 'virtio-net' }, { address: 'mtty-2' }];
  assignment.together(devices, () => {
    expect(loaded).toEqual(['devices/virtio-net/driver.js', 'devices/mtty/driver.js']);
  });
  expect.assertions(1);
});

test('what a provider opens is its own: the kernel’s has both interfaces and its host, vfio-user’s groups only', () => {
  using scope = new Scope();
  const { providers, loaded } = onDemand(scope);
  const [core, kernel, other] = providers;
  expect(loaded).toEqual([]);
  expect(
    [core, kernel, other].map((each) => [each?.groups !== undefined, each?.cdevs !== undefined]),
  ).toEqual([
    [true, true],
    [true, true],
    [true, false],
  ]);
  expect('context' in (kernel as VfioProvider)).toBe(true);
  expect(loaded).toEqual(['vfio/host/index.js', 'vfio/user/index.js']);
});
