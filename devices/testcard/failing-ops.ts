import { SysError } from '../../sys/error.js';
import type { VfioDeviceOps } from '../../vfio/driver.js';

/** Functions of {@link VfioDeviceOps} that can be made to fail. */
export type FailingCall =
  | 'openDevice'
  | 'getRegionInfo'
  | 'getIrqInfo'
  | 'setIrqs'
  | 'reset'
  | 'read'
  | 'write'
  | 'mmap';

/** The calls that their users see fail. */
const calls: Readonly<Record<FailingCall, string>> = {
  openDevice: 'VFIO_GROUP_GET_DEVICE_FD',
  getRegionInfo: 'VFIO_DEVICE_GET_REGION_INFO',
  getIrqInfo: 'VFIO_DEVICE_GET_IRQ_INFO',
  setIrqs: 'VFIO_DEVICE_SET_IRQS',
  reset: 'VFIO_DEVICE_RESET',
  read: 'pread',
  write: 'pwrite',
  mmap: 'mmap',
};

/** All of {@link FailingCall}. */
export const FAILING_CALLS = Object.keys(calls) as FailingCall[];

/** A call that fails. */
export interface Failure {
  /** What fails. */
  readonly call: FailingCall;
  /** Positive. */
  readonly errno: number;
  /** Which of its calls fails, from 1; 0: each. */
  readonly nth: number;
}

/**
 * A device whose calls fail as they are told to: any vendor driver's, to see what its users do then. A function that the device
 * lacks stays absent.
 * @returns the same device if there is nothing to fail
 */
export function failingOps<T extends VfioDeviceOps>(ops: T, failures: readonly Failure[]): T {
  if (failures.length === 0) return ops;
  const counts = new Map<FailingCall, number>();
  const fail = (call: FailingCall): void => {
    const count = (counts.get(call) ?? 0) + 1;
    counts.set(call, count);
    const failure = failures.find((each) => each.call === call && (each.nth === 0 || each.nth === count));
    if (failure === undefined) return;
    const hint = `the test makes call ${count} fail`;
    throw new SysError({ call: calls[call], target: ops.name, errno: failure.errno, hint });
  };
  return new Proxy(ops, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name, target);
      if (typeof value !== 'function') return value;
      return (...parameters: unknown[]) => {
        if (Object.hasOwn(calls, name)) fail(name as FailingCall);
        return Reflect.apply(value, target, parameters);
      };
    },
  });
}
