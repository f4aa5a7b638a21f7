import type { DependencyContainer, InjectionToken } from 'tsyringe';
import type { Scope } from '../../sys/scope.js';
import { VfioProvider } from '../../vfio/provider.js';
import {
  type AssignmentPorts,
  checkGiven,
  commonPorts,
  type DeviceSources,
  type GetPort,
  type PortName,
  portsWithoutDefault,
  portTokens,
  requirePort,
} from './ports.js';

/**
 * Registers every port that the container lacks, as {@link registerAssignment} does.
 * @param sources where devices come from, unless `given` or the container has it
 * @returns `scope`
 * @throws TypeError for a name that is no port, or a malformed window
 */
export function registerPortsFrom(
  container: DependencyContainer,
  given: Partial<AssignmentPorts>,
  sources: DeviceSources,
  scope: Scope,
): Disposable {
  checkGiven(given);
  const get: GetPort = (name) =>
    requirePort(
      name,
      name === 'providers' ? providersIn(container) : container.resolve(tokenOf(name)),
    ) as never;
  for (const name of Object.keys(portTokens) as PortName[]) {
    if (given[name] === undefined && portsWithoutDefault.has(name)) continue;
    if (name === 'providers') {
      if (container.isRegistered(VfioProvider, true)) continue;
      registerProviders(container, given.providers ?? sources.providers.map((make) => once(() => make(get))));
    } else {
      const make = name === 'core' ? sources.core : commonPorts[name];
      registerDefault(container, tokenOf(name), () => given[name] ?? make(get, scope));
    }
  }
  return scope;
}

/**
 * Registers a factory that runs once, on first resolve, unless the token is registered already. (tsyringe itself runs a
 * factory on each resolve.)
 */
export function registerDefault<T>(
  container: DependencyContainer,
  token: InjectionToken<T>,
  make: () => T,
): void {
  if (!container.isRegistered(token, true)) container.register(token, { useFactory: once(make) });
}

const tokenOf = (name: PortName) => portTokens[name] as InjectionToken<unknown>;

/** tsyringe throws where there are none. */
const providersIn = (container: DependencyContainer): readonly VfioProvider[] =>
  container.isRegistered(VfioProvider, true) ? container.resolveAll(VfioProvider) : [];

/** @param providers themselves, or what makes them */
function registerProviders(
  container: DependencyContainer,
  providers: readonly (VfioProvider | (() => VfioProvider))[],
): void {
  for (const each of providers) {
    if (typeof each === 'function') container.register(VfioProvider, { useFactory: each });
    else container.register(VfioProvider, { useValue: each });
  }
}

/** Replaces tsyringe's instanceCachingFactory, so that containers of any copy of tsyringe work. */
function once<T>(make: () => T): () => T {
  let made: { readonly value: T } | undefined;
  return () => {
    made ??= { value: make() };
    return made.value;
  };
}
