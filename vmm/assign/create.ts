import { Scope } from '../../sys/scope.js';
import type { AssignedDevice, AttachRequest } from '../../vfio/assign/index.js';
import { type AssignmentPorts, defaultPorts, type GetPort, type PortName } from './ports.js';

/** An assignment with its ports, wired by hand. Dispose it after the last attached device. */
export interface WiredAssignment extends Disposable {
  /** Each is made when first read. */
  readonly ports: AssignmentPorts;
  /** @see Assignment.attach */
  attach(request: AttachRequest): AssignedDevice;
}

/**
 * The same as {@link registerAssignment} without a container.
 * @param given `vm`, `eventThread`, `windows`, and every port that is to differ from its default
 */
export function createAssignment(given: Partial<AssignmentPorts>): WiredAssignment {
  const scope = new Scope();
  const made: Partial<Record<PortName, unknown>> = { ...given };
  const get: GetPort = (name) => {
    made[name] ??= defaultPorts[name](get, scope);
    return made[name] as never;
  };
  const ports = Object.defineProperties(
    {},
    Object.fromEntries(
      (Object.keys(defaultPorts) as PortName[]).map((name) => [
        name,
        { get: () => get(name), enumerable: true },
      ]),
    ),
  ) as AssignmentPorts;
  return {
    ports,
    attach: (request) => get('assignment').attach(request),
    [Symbol.dispose]: () => scope[Symbol.dispose](),
  };
}
