import { Scope } from '../../sys/scope.js';
import type { AssignedDevice, AttachRequest } from '../../vfio/assign/index.js';
import { type AssignmentPorts, defaultPorts, type GetPort, type PortName, requirePort } from './ports.js';

/** An assignment wired to its ports. Disposing it closes what the defaults opened: dispose attached devices first. */
export interface WiredAssignment extends Disposable {
  /** Each port is created on first read. */
  readonly ports: AssignmentPorts;
  /** @see Assignment.attach */
  attach(request: AttachRequest): AssignedDevice;
}

/**
 * Wires an assignment without a container; {@link registerAssignment} is the variant for tsyringe. Ports are created when
 * they are first needed, so nothing is opened by this call.
 * @param given `vm`, `eventThread`, `windows`, and each port that replaces its default
 */
export function createAssignment(given: Partial<AssignmentPorts>): WiredAssignment {
  const scope = new Scope();
  const made: Partial<Record<PortName, unknown>> = { ...given };
  const get: GetPort = (name) => {
    made[name] ??= defaultPorts[name](get, scope);
    return requirePort(name, made[name]) as never;
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
