import type { DependencyContainer, InjectionToken } from 'tsyringe';
import { Scope } from '../../sys/scope.js';
import { VfioProvider } from '../../vfio/uapi.js';
import {
  type AssignmentPorts,
  defaultPorts,
  defaultProviders,
  type GetPort,
  type PortName,
  portsWithoutDefault,
  portTokens,
} from './ports.js';

/**
 * Registers, in a tsyringe container of the caller's, every port of {@link AssignmentPorts} that it does not hold yet, and
 * `Assignment` itself. Registrations are factories that run once, when first resolved, so a port can still be replaced
 * until then. The container may come from another copy of tsyringe.
 *
 * A container that holds one `VfioProvider` keeps exactly the providers it holds.
 * @param given values for ports that the container does not hold; `vm`, `eventThread` and `windows` have no default
 * @param scope owns what the defaults open, in the order in which they are first resolved
 * @returns `scope`: dispose it after the last attached device
 */
export function registerAssignment(
  container: DependencyContainer,
  given: Partial<AssignmentPorts> = {},
  scope = new Scope(),
): Disposable {
  const get: GetPort = (name) =>
    (name === 'providers' ? container.resolveAll(VfioProvider) : container.resolve(tokenOf(name))) as never;
  for (const name of Object.keys(portTokens) as PortName[]) {
    if (given[name] === undefined && portsWithoutDefault.has(name)) continue;
    if (name !== 'providers')
      registerDefault(container, tokenOf(name), () => given[name] ?? defaultPorts[name](get, scope));
    else if (!container.isRegistered(VfioProvider, true)) registerProviders(container, given.providers, get);
  }
  return scope;
}

/**
 * Registers a factory that runs once, when the token is first resolved, unless the container holds the token already.
 * (A factory of tsyringe's own runs at each resolve.)
 */
export function registerDefault<T>(
  container: DependencyContainer,
  token: InjectionToken<T>,
  make: () => T,
): void {
  if (!container.isRegistered(token, true)) container.register(token, { useFactory: once(make) });
}

const tokenOf = (name: PortName) => portTokens[name] as InjectionToken<unknown>;

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

/** Not tsyringe's own, which belongs to one copy of it. */
function once<T>(make: () => T): () => T {
  let made: { readonly value: T } | undefined;
  return () => {
    made ??= { value: make() };
    return made.value;
  };
}
