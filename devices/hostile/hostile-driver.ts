import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { overlay } from '../../sys/overlay.js';
import { Scope } from '../../sys/scope.js';
import { trace } from '../../sys/trace.js';
import { workerUrl } from '../../sys/worker-url.js';
import type { MdevInstance, MdevType, VendorDriver, VendorEnvironment } from '../../vfio/driver.js';
import { Decisions } from './decisions.js';
import { HostileOps } from './hostile-ops.js';
import type { InterruptTaskData } from './messages.js';
import { createMutationLog, type Mutation, MutationLog } from './mutation-log.js';
import { fillOptions, HOSTILE_SYNTAX, type HostileOptions, parseHostile } from './options.js';

/** An instance whose device is hostile. */
export interface HostileInstance extends MdevInstance {
  /** What it did to its guest, oldest first: the latest 1024. */
  readonly mutations: readonly Mutation[];
  /** As the device's own, and `mutations`, how many there were. */
  counters(): Readonly<Record<string, number>>;
}

/** A vendor driver whose instances are {@link HostileInstance}. */
export interface HostileDriver extends VendorDriver {
  create(
    type: MdevType,
    uuid: string,
    options: Readonly<Record<string, string>>,
    environment: VendorEnvironment,
  ): HostileInstance;
}

const builtIn = workerUrl('devices/hostile/interrupt-task.js');
const PREFIX = 'hostile-';

/**
 * A vendor driver whose devices do to their guest what hardware must not: they return other values, lose and repeat
 * writes and interrupts, write other bytes by DMA, and fail calls. What happens follows from the seed and from what the guest does, so that a
 * run can be repeated; memory is written only where the device itself writes. For those who harden drivers: docs/hostile-devices.md.
 * @param driver any; its name and its types' get `hostile-` in front, so that both can be registered with one core
 * @param module of the event task; the package's own if absent
 * @throws RangeError for a seed or a rate that there is not
 */
export function hostileDriver(
  driver: VendorDriver,
  options: HostileOptions,
  module: URL = builtIn,
): HostileDriver {
  fillOptions(options);
  const types = driver.types.map((type) => ({
    ...type,
    name: PREFIX + type.name,
    description: `${type.description}; hostile, seed ${options.seed}`,
  }));
  const own = ({ name }: MdevType): MdevType =>
    driver.types.find((type) => PREFIX + type.name === name) as MdevType;
  const { availableInstances, checkOptions, shortage, parents } = driver;
  return {
    name: PREFIX + driver.name,
    types,
    ...(shortage && { shortage: (type, given) => shortage.call(driver, own(type), given) }),
    ...(parents && { parents: () => parents.call(driver) }),
    ...(availableInstances && { availableInstances: (type) => availableInstances.call(driver, own(type)) }),
    ...(checkOptions && { checkOptions: (type, given) => checkOptions.call(driver, own(type), given) }),
    create: (type, uuid, given, environment) =>
      hostileInstance(() => driver.create(own(type), uuid, given, environment), options, {
        ...{ name: type.name, environment, module },
      }),
  };
}

/**
 * A driver whose instances are hostile if they have the option `hostile=SEED`, and as they were without: the same names.
 * @param module as in {@link hostileDriver}
 */
export function hostileByOption(driver: VendorDriver, module: URL = builtIn): VendorDriver {
  const types = driver.types.map((type) => ({
    ...type,
    options: [
      ...(type.options ?? []),
      { name: 'hostile', value: HOSTILE_SYNTAX, description: 'mutates what the guest sees of it' },
    ],
  }));
  const own = ({ name }: MdevType): MdevType => driver.types.find((type) => type.name === name) as MdevType;
  const { availableInstances, shortage, parents } = driver;
  return {
    name: driver.name,
    types,
    ...(shortage && { shortage: (type, given) => shortage.call(driver, own(type), given) }),
    ...(parents && { parents: () => parents.call(driver) }),
    ...(availableInstances && { availableInstances: (type) => availableInstances.call(driver, own(type)) }),
    checkOptions(type, { hostile, ...given }) {
      const parsed = hostile === undefined ? undefined : parseHostile(hostile);
      if (typeof parsed === 'string') return `hostile: ${parsed}`;
      return driver.checkOptions?.(own(type), given);
    },
    create(type, uuid, { hostile, ...given }, environment) {
      const create = () => driver.create(own(type), uuid, given, environment);
      if (hostile === undefined) return create();
      const parsed = parseHostile(hostile);
      if (typeof parsed === 'string')
        throw new SysError({
          call: 'mdev create',
          target: `${type.name} ${uuid}`,
          errno: errno.EINVAL,
          hint: `hostile: ${parsed}`,
        });
      return hostileInstance(create, parsed, { name: type.name, environment, module });
    },
  };
}

function hostileInstance(
  create: () => MdevInstance,
  given: HostileOptions,
  {
    name,
    environment,
    module,
  }: { readonly name: string; readonly environment: VendorEnvironment; readonly module: URL },
): HostileInstance {
  using scope = new Scope();
  const options = fillOptions(given);
  const instance = scope.own(create());
  const buffer = createMutationLog();
  const log = new MutationLog(buffer);
  const data: InterruptTaskData = { options, log: buffer };
  const task = options.kinds.includes('interrupt')
    ? scope.own(environment.eventThread.run(module, data))
    : undefined;
  const { ops } = new HostileOps(instance.ops, new Decisions(options, buffer), task);
  if (trace.vfio.hasSubscribers) {
    const text = `${name} is hostile: seed ${options.seed}, rate ${options.rate}, ${options.kinds.join(', ')}`;
    trace.vfio.publish({ what: 'hostile device', text });
  }
  const owned = scope.move();
  return overlay(instance, {
    ops,
    get mutations() {
      return log.since(0);
    },
    counters: () => ({ ...instance.counters?.(), mutations: log.count }),
    [Symbol.dispose]: () => owned[Symbol.dispose](),
  });
}
