import { Scope } from '../../sys/scope.js';
import type { AssignedDevice, AttachRequest } from '../../vfio/assign/index.js';
import { defaultPorts } from './built-ins.js';
import { type AssignmentPorts, checkGiven, type GetPort, type PortName, requirePort } from './ports.js';

/** An assignment wired to its ports. Disposing it detaches the devices that are left, and closes what the defaults opened. */
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
 * @throws TypeError for a name that is no port, or a malformed window
 */
export function createAssignment(given: Partial<AssignmentPorts>): WiredAssignment {
  checkGiven(given);
  const scope = new Scope();
  const made: Partial<Record<PortName, unknown>> = { ...given };
  let isDisposed = false;
  const get: GetPort = (name) => {
    if (isDisposed && made[name] === undefined)
      throw new TypeError(`tsvisor/assign: the assignment is disposed, and never had its port ${name}`);
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
    [Symbol.dispose]() {
      isDisposed = true;
      scope[Symbol.dispose]();
    },
  };
}
