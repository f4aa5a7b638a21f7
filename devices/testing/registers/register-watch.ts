import { overlay } from '../../../sys/overlay.js';
import type { MdevInstance, VendorDriver, VfioDeviceOps } from '../../../vfio/driver.js';
import { type RegionInfo, VFIO_PCI_CONFIG_REGION_INDEX } from '../../../vfio/uapi.js';
import { withoutMmap } from '../../mdev/region-info.js';
import { littleEndian } from '../../pci/config-space.js';
import { BurnDown, type RegisterReport, reportText } from './burn-down.js';
import { type Register, RegisterMap, sizeOf } from './register-map.js';
import { RegisterTrace } from './register-trace.js';
import { type Spin, type SpinLimits, SpinWatch, spinText } from './spin-watch.js';

/** Options of a {@link RegisterWatch}. */
export interface RegisterWatchOptions {
  /** The device's registers. A region of which none is declared is not watched. */
  readonly registers: readonly Register[];
  /** How many accesses the trace keeps; 10,000 if absent. */
  readonly capacity?: number;
  /** When a guest is said to spin. */
  readonly spin?: SpinLimits;
  /** Called once for each spin that is found, while the guest waits for that read: return soon, and never throw. */
  readonly onSpin?: (spin: Spin) => void;
  /** The time in milliseconds; performance.now if absent. */
  readonly now?: () => number;
}

/** A register whose value is not the one that is declared. */
export interface ResetMismatch {
  /** The register's name. */
  readonly name: string;
  /** The declared value. */
  readonly expected: number;
  /** What the device has. */
  readonly got: number;
}

const watches = new WeakMap<object, RegisterWatch>();

/** The watch that a device or driver was wrapped by, for messages. */
export const watchOf = (device: object): RegisterWatch | undefined => watches.get(device);

/**
 * Watches the registers of one device, in whichever VMM it is used: what a driver did with each by name, which ones the
 * device lacks, and on which one a driver spins. In the thread that calls the device's functions.
 *
 * A region with a declared register is no longer mapped into the guest and loses its doorbells' eventfds, so that each
 * access is seen: it is slower. Of configuration space, declared registers alone are recorded.
 */
export class RegisterWatch {
  /** What was accessed, in order. */
  readonly trace: RegisterTrace;
  readonly #map: RegisterMap;
  readonly #spins: SpinWatch;
  readonly #burnDown = new BurnDown();
  readonly #now: () => number;
  readonly #since: number;
  #device: VfioDeviceOps | undefined;

  /** @throws RangeError for declarations that contradict each other, or an impossible capacity or limit */
  constructor({ registers, capacity = 10_000, spin = {}, onSpin, now }: RegisterWatchOptions) {
    this.#map = new RegisterMap(registers);
    this.trace = new RegisterTrace(capacity);
    this.#spins = new SpinWatch(spin, onSpin);
    this.#now = now ?? (() => performance.now());
    this.#since = this.#now();
  }

  /** The device with its registers watched: to be registered in its place. Functions that it lacks stay absent. */
  around<T extends VfioDeviceOps>(device: T): T {
    this.#device = device;
    const own: Partial<VfioDeviceOps> = {
      getRegionInfo: (index) => this.#trapped(device.getRegionInfo(index)),
      read: (index, offset, data) => {
        const bytes = device.read(index, offset, data);
        this.#see('read', index, offset, data.subarray(0, bytes));
        return bytes;
      },
      write: (index, offset, data) => {
        // Before the device acts on it: an interrupt or a reset that it causes comes after it.
        this.#see('write', index, offset, data);
        return device.write(index, offset, data);
      },
    };
    if (device.getRegionIoFds !== undefined)
      own.getRegionIoFds = (index) =>
        this.#map.hasRegion(index) ? [] : (device.getRegionIoFds?.(index) ?? []);
    const watched = overlay(device, own);
    watches.set(watched, this);
    return watched;
  }

  /** The vendor driver, whose instances are watched. All are recorded together: create one at a time. */
  aroundDriver(driver: VendorDriver): VendorDriver {
    const watched: VendorDriver = {
      name: driver.name,
      types: driver.types,
      ...(driver.availableInstances && {
        availableInstances: (type) => driver.availableInstances?.(type) ?? 0,
      }),
      ...(driver.shortage && { shortage: (type, options) => driver.shortage?.(type, options) ?? '' }),
      ...(driver.parents && { parents: () => driver.parents?.() ?? [] }),
      ...(driver.checkOptions && { checkOptions: (type, options) => driver.checkOptions?.(type, options) }),
      create: (type, uuid, options, environment): MdevInstance => {
        const instance = driver.create(type, uuid, options, environment);
        return overlay(instance, { ops: this.around(instance.ops) });
      },
    };
    watches.set(watched, this);
    return watched;
  }

  /** The register that a guest reads in vain at the moment, if any. */
  get spin(): Spin | undefined {
    return this.#spins.current;
  }

  /** What the driver has done that the device does not answer for, so far. */
  report(): RegisterReport {
    return { ...this.#burnDown.report(), spins: this.#spins.spins, droppedSpins: this.#spins.dropped };
  }

  /** {@link report} for people; empty if there is nothing to say. */
  describe(): string {
    return reportText(this.report());
  }

  /**
   * Reads each readable register of up to four bytes that is declared with a reset value, past the watch. Call it while
   * the device is open and decodes its BARs, after open or reset. Reads have the side effects that the device gives them.
   * @returns those that read something else
   * @throws Error before {@link around}, and what the device's `read` throws
   */
  resetMismatches(): ResetMismatch[] {
    const device = this.#device;
    if (device === undefined) throw new Error('no device is watched yet: call around() first');
    return this.#map.all.flatMap((register) => {
      const { name, region, offset, reset, access, isModelled } = register;
      const size = sizeOf(register);
      if (reset === undefined || access === 'wo' || isModelled === false || size > 4) return [];
      const data = new Uint8Array(size).fill(0xff);
      device.read(region, offset, data);
      const got = littleEndian(data, 0, size);
      return got === reset ? [] : [{ name, expected: reset, got }];
    });
  }

  #see(kind: 'read' | 'write', region: number, offset: number, data: Uint8Array): void {
    if (!this.#map.hasRegion(region)) return;
    const at = this.#now() - this.#since;
    for (const part of this.#map.parts(region, offset, data.length)) {
      const { register, name, size } = part;
      // The header and the capabilities of configuration space, which are not a driver's registers.
      if (register === undefined && region === VFIO_PCI_CONFIG_REGION_INDEX) continue;
      const from = part.offset - offset;
      const value = littleEndian(data, from, size);
      const access = { kind, name, region, offset: part.offset, size, value, at };
      this.trace.add(access);
      this.#burnDown.see(access, register);
      this.#spins.see(access, register?.isFifo);
    }
  }

  /** Without what would let a guest pass by. */
  #trapped<T extends Omit<RegionInfo, 'offset'>>(info: T): T {
    return this.#map.hasRegion(info.index) ? withoutMmap(info) : info;
  }
}

/** What a person needs to know of a guest that hangs; undefined if it does not spin. */
export function spinningText(device: object): string | undefined {
  const spin = watchOf(device)?.spin;
  return spin === undefined ? undefined : spinText(spin);
}
