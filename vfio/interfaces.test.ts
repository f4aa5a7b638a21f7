import { expect, test } from 'vitest';
import { cdevsOf, groupsOf } from './interfaces.js';
import type { VfioProvider } from './provider.js';
import { World } from './testing/world.js';
import { userProvider } from './user/client/provider.js';
import { noEvents } from './user/testing/peer.js';

test('a provider with both interfaces gives both', () => {
  const world = new World();
  const { provider } = world.core;
  expect(groupsOf(provider)).toBe(provider.groups);
  expect(cdevsOf(provider)).toBe(provider.cdevs);
  world.end();
});

test('an interface that a provider lacks is ENODEV, with the provider and the way out', () => {
  expect(() => cdevsOf(userProvider(noEvents))).toThrowError(
    /^open cdev on provider vfio-user: ENODEV\n.*omit interface=iommufd/,
  );
  const world = new World();
  const { groups: _, ...others } = world.core.provider;
  const provider: VfioProvider = others;
  expect(() => groupsOf(provider)).toThrowError(
    /^open group on provider core: ENODEV\n.*use interface=iommufd/,
  );
  world.end();
});
