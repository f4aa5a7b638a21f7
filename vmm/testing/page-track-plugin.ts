/** For tests: a serial card that tracks pages of its guest while it is open, `page-tracker`, and counts the writes to them. */
import { createMttyDriver } from '../../devices/mtty/index.js';
import { gpa } from '../../sys/address.js';
import type { KvmGuest, KvmPageTrackNotifierNode } from '../../sys/kvm-guest.js';
import { overlay } from '../../sys/overlay.js';
import type { OpenDevice, VendorDriver, VfioDeviceOps } from '../../vfio/driver.js';
import type { Plugin } from '../plugin.js';

/**
 * Of the built-in guest's data: what it prints, and the frames that it sends (`nm vmm/guest/guest.elf`). Its stack is not among
 * them: KVM cannot deliver an interrupt to a stack that it would have to emulate.
 */
const FIRST = 0x10dn;
const PAGES = 0x85n;

/** Tracks while it is open. */
class Tracker {
  writes = 0;
  wrong = 0;
  #guest: KvmGuest | undefined;
  readonly #node: KvmPageTrackNotifierNode = {
    name: 'page-tracker',
    trackWrite: (at, data) => {
      this.writes++;
      const now = new Uint8Array(data.length);
      this.#guest?.readGuest(gpa(at), now);
      const gfn = at >> 12n;
      const isTracked = gfn >= FIRST && gfn < FIRST + PAGES;
      if (!isTracked || Buffer.compare(now, data) !== 0) this.wrong++;
    },
    trackRemoveRegion: () => {},
  };

  open(guest: KvmGuest | undefined): void {
    this.#guest = guest;
    guest?.pageTrackRegisterNotifier(this.#node);
    guest?.writeTrackAddGfn(FIRST, PAGES);
  }

  close(): void {
    this.#guest?.writeTrackRemoveGfn(FIRST, PAGES);
    this.#guest?.pageTrackUnregisterNotifier(this.#node);
    this.#guest = undefined;
  }
}

function tracking(driver: VendorDriver): VendorDriver {
  const [type] = driver.types;
  if (type === undefined) throw new RangeError(`${driver.name} has no type`);
  return {
    ...driver,
    name: 'page-tracker',
    types: [{ ...type, name: 'page-tracker' }],
    create(_type, uuid, options, environment) {
      const made = driver.create(type, uuid, options, environment);
      const tracker = new Tracker();
      const ops: VfioDeviceOps = overlay(made.ops, {
        openDevice(open: OpenDevice) {
          made.ops.openDevice(open);
          tracker.open(open.kvm?.guest);
        },
        closeDevice() {
          tracker.close();
          made.ops.closeDevice();
        },
      });
      return {
        ops,
        counters: () => ({ writes: tracker.writes, wrong: tracker.wrong }),
        [Symbol.dispose]: () => made[Symbol.dispose](),
      };
    },
  };
}

export const plugin: Plugin = { name: 'page-track', vendorDrivers: [tracking(createMttyDriver())] };
