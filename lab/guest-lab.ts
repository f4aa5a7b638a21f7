import { deviceNames } from './devices.js';
import { L1, type L1Options } from './l1.js';

/** An L1 with VFIO loaded, for guests. */
export interface GuestL1 {
  readonly l1: L1;
  /** Serves L2's file. */
  readonly url: string;
}

/** Boots L1 with all devices and VFIO loaded. */
async function bootForGuests(options: L1Options): Promise<GuestL1> {
  const l1 = await L1.boot({ devices: deviceNames, ...options });
  const loaded = await l1.run('vfio-load && echo $LAB_URL');
  if (loaded.status === 0) return { l1, url: loaded.output.trim() };
  await l1[Symbol.asyncDispose]();
  throw new Error(`VFIO did not load in L1\n${loaded.output}`);
}

/** The L1 in which guests run, one after another: booted when needed, and again after it was discarded. */
export class GuestLab implements AsyncDisposable {
  #options = '';
  #now: GuestL1 | undefined;

  /** The current L1 if it was booted with the same options, or else a new one. */
  async l1(options: L1Options = {}): Promise<GuestL1> {
    const key = JSON.stringify(options);
    if (key !== this.#options) await this.discard();
    this.#options = key;
    this.#now ??= await bootForGuests(options);
    return this.#now;
  }

  /** Ends the current L1. A failure may have left it hanging, or a device in use. */
  async discard(): Promise<void> {
    const now = this.#now;
    this.#now = undefined;
    await now?.l1[Symbol.asyncDispose]();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.discard();
  }
}
