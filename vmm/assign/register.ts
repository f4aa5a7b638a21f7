import type { DependencyContainer, InjectionToken } from 'tsyringe';
import { Scope } from '../../sys/scope.js';
import { VfioProvider } from '../../vfio/provider.js';
import {
  type AssignmentPorts,
  checkGiven,
  defaultPorts,
  defaultProviders,
  type GetPort,
  type PortName,
  portsWithoutDefault,
  portTokens,
  requirePort,
} from './ports.js';

/**
 * Registers in the caller's tsyringe container every port of {@link AssignmentPorts} that is not registered yet,
 * `Assignment` included. Each registration is a factory that runs once, on first resolve; a port can be replaced until
 * then. The container can come from another copy of tsyringe.
 *
 * If a `VfioProvider` is registered already, no other provider is added.
 * @param given values of ports that are not registered; `vm`, `eventThread` and `windows` have no default
 * @param scope owns what the defaults open, in the order of first resolve
 * @returns `scope`: disposing it detaches the devices that are left first
 * @throws TypeError for a name that is no port, or a malformed window
 */
export function registerAssignment(
  container: DependencyContainer,
  given: Partial<AssignmentPorts> = {},
  scope = new Scope(),
): Disposable {
  checkGiven(given);
  const get: GetPort = (name) =>
    requirePort(
      name,
      name === 'providers' ? providersIn(container) : container.resolve(tokenOf(name)),
    ) as never;
  for (const name of Object.keys(portTokens) as PortName[]) {
    if (given[name] === undefined && portsWithoutDefault.has(name)) continue;
    if (name !== 'providers')
      registerDefault(container, tokenOf(name), () => given[name] ?? defaultPorts[name](get, scope));
    else if (!container.isRegistered(VfioProvider, true)) registerProviders(container, given.providers, get);
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

function registerProviders(
  container: DependencyContainer,
  given: readonly VfioProvider[] | undefined,
  get: GetPort,
): void {
  for (const provider of given ?? []) container.register(VfioProvider, { useValue: provider });
  if (given !== undefined) return;
  for (const make of defaultProviders)
    container.register(VfioProvider, { useFactory: once(() => make(get)) });
}

/** Replaces tsyringe's instanceCachingFactory, so that containers of any copy of tsyringe work. */
function once<T>(make: () => T): () => T {
  let made: { readonly value: T } | undefined;
  return () => {
    made ??= { value: make() };
    return made.value;
  };
}
