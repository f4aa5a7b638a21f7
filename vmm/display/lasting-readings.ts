import { isErrno } from '../../sys/error.js';
import { overlay } from '../../sys/overlay.js';
import type { ControlledMachine } from '../api/routes.js';
import type { Counters, RunReport } from '../protocol.js';

/** The machine restarts, or many calls are pending. */
const PASSING = ['ECONNRESET', 'EBUSY'] as const;

/**
 * The same machine, whose readings are what they were last while it restarts and once it has ended, with the counters of its
 * report: a page goes on showing them. Main thread only.
 */
export function lastingReadings<M extends ControlledMachine>(machine: M): M {
  let report: RunReport | undefined;
  machine.finished.then(
    (ended) => {
      report = ended;
    },
    () => {},
  );
  const lasting = <T>(read: () => Promise<T>) => {
    let last: { readonly result: T } | undefined;
    return async (): Promise<T> => {
      try {
        last = { result: await read() };
      } catch (error) {
        const isPassing = machine.info().state === 'ended' || PASSING.some((code) => isErrno(error, code));
        if (last === undefined || !isPassing) throw error;
      }
      return last.result;
    };
  };
  const counters = lasting(() => machine.counters());
  const devices = lasting(() => machine.inspectDevices());
  const readings: Partial<ControlledMachine> = {
    counters: async (): Promise<Counters> => {
      if (report === undefined) return counters();
      const { exits, accesses, devices } = report;
      return { exits, accesses, devices };
    },
    inspectDevices: async () => {
      const ended = report?.devices;
      const counts = (name: string) => ended?.find((device) => device.name === name);
      return (await devices()).map((device) => ({ ...device, ...counts(device.name) }));
    },
    inspectMemory: lasting(() => machine.inspectMemory()),
    timeline: lasting(() => machine.timeline()),
  };
  return overlay(machine, readings);
}
