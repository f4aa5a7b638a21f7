/** Devices come and go while the guest runs: at the machine's owner's request, the guest's, or the host's. */
import {
  ACPI_NOTIFY_DEVICE_CHECK,
  ACPI_NOTIFY_EJECT_REQUEST,
  ACPI_OST_SC_EJECT_IN_PROGRESS,
  ACPI_OST_SC_SUCCESS,
} from '../devices/platform/pci-hotplug.js';
import { errno } from '../sys/errno.js';
import { SysError } from '../sys/error.js';
import { attachStep } from '../vfio/assign/index.js';
import type { AssignedDevices } from './assigned-devices.js';
import type { DeviceConfig } from './config.js';
import { Later } from './machine-calls.js';

/** The guest's side of ACPI PCI hotplug; linux/platform.ts implements it. */
export interface GuestHotplug {
  /** Reports a new device. */
  announce(slot: number): void;
  /** Requests a device; the guest ejects it, or reports why not, or says nothing. */
  requestUnplug(slot: number): void;
  /** Withdraws the request. Returns whether it could: the guest has not read it. */
  withdrawUnplug(slot: number): boolean;
}

/** What {@link Hotplug} needs of its machine. */
export interface HotplugPorts {
  readonly devices: AssignedDevices;
  /** Undefined for a guest without ACPI: it finds out by reading configuration space. */
  readonly guest: GuestHotplug | undefined;
  /** Checks devices before anything of them is opened. @throws what is wrong with them */
  readonly check: (devices: readonly DeviceConfig[]) => void;
  /** Gets the devices whenever there are others. */
  readonly changed: (devices: readonly DeviceConfig[]) => void;
}

/** A request to detach that waits for the guest. */
interface Request {
  readonly id: number;
  readonly slot: number;
  readonly result: Later<void>;
}

const SLOTS = 32;

/** Machine thread only. Nothing that a guest does makes it throw. */
export class Hotplug {
  readonly #ports: HotplugPorts;
  readonly #requests = new Set<Request>();
  /**
   * By slot: how often the guest was asked for the device and has not answered. Until it has, nothing new goes there: the
   * answer is an _EJ0, which does not say which device it means.
   */
  readonly #unanswered = new Map<number, number>();
  /** Slots whose device the host has asked for. */
  readonly #wanted = new Set<number>();

  constructor(ports: HotplugPorts) {
    this.#ports = ports;
  }

  /** Tells which devices there are, each with its slot. */
  tell(): void {
    this.#ports.changed(this.#ports.devices.list.map(({ config }) => config));
  }

  /**
   * Attaches devices, all or none, and reports them to the guest. Returns their slots.
   * @throws as {@link AssignedDevices.attach} and {@link HotplugPorts.check}
   */
  attach(configs: readonly DeviceConfig[]): readonly number[] {
    const { devices, guest, check } = this.#ports;
    check(configs);
    const attached = devices.attach(configs, (slot) =>
      this.#unanswered.has(slot) ? 'the guest has not released it since it was asked to' : undefined,
    );
    if (attached.length > 0) this.tell();
    for (const slot of new Set(attached.map(({ slot }) => slot))) guest?.announce(slot);
    return attached.map(({ slot }) => slot);
  }

  /**
   * Detaches the device in a slot: the guest is asked for it and releases it, or else by force, at once. A guest without
   * ACPI cannot be asked.
   * @param id for {@link expire}
   * @returns settles when the device is gone
   * @throws SysError ENODEV for an empty slot; what failed of closing the device, which is gone in any case
   */
  detach(slot: number, isForced: boolean, id: number): Later<void> {
    this.#ports.devices.get(slot, 'detach');
    const result = new Later<void>();
    if (isForced || this.#ports.guest === undefined) {
      this.#takeAway(slot);
      result.resolve();
      return result;
    }
    this.#requests.add({ id, slot, result });
    this.#ask(slot);
    return result;
  }

  /** The time of a request to detach is up. Nothing if it is settled. */
  expire(id: number, timeoutMs: number): void {
    const request = [...this.#requests].find((each) => each.id === id);
    if (request === undefined) return;
    this.#requests.delete(request);
    const isLast = ![...this.#requests].some(({ slot }) => slot === request.slot);
    if (isLast && this.#ports.guest?.withdrawUnplug(request.slot) === true) this.#answered(request.slot);
    const why =
      `the guest has not released the device within ${timeoutMs} ms: it is still booting, has no driver for ACPI hotplug ` +
      '(acpiphp), or its driver of the device does not return';
    request.result.reject(this.#refused(request.slot, errno.ETIMEDOUT, why));
  }

  /** The guest has ejected what is in the slot, on request or by itself. */
  ejected(slot: number): void {
    this.#answered(slot);
    const device = this.#ports.devices.find(slot);
    if (device === undefined) return;
    attachStep(`the guest has released ${device.name}`);
    this.#settle(slot, this.#tryRemove(slot));
  }

  /** The guest says what became of a notification. */
  reported(slot: number, event: number, status: number): void {
    if (status === ACPI_OST_SC_SUCCESS || status === ACPI_OST_SC_EJECT_IN_PROGRESS) return;
    const device = this.#ports.devices.find(slot);
    if (event === ACPI_NOTIFY_DEVICE_CHECK && device !== undefined)
      attachStep(`the guest has not taken ${device.name}: ${statusText(status)}`);
    if (event !== ACPI_NOTIFY_EJECT_REQUEST) return;
    this.#answered(slot);
    if (device === undefined) return;
    this.#settle(slot, this.#refused(slot, errno.EBUSY, `the guest refuses: ${statusText(status)}`));
  }

  /** The host wants a device back. It repeats that every ten seconds: until the second time, the guest can release it. */
  requested(slot: number): void {
    const { guest, devices } = this.#ports;
    if (devices.find(slot) === undefined) return;
    if (guest !== undefined && !this.#wanted.has(slot)) {
      this.#wanted.add(slot);
      this.#ask(slot);
      return;
    }
    try {
      this.#takeAway(slot);
    } catch (error) {
      attachStep(`while detaching: ${(error as Error).message}`);
    }
  }

  /** The guest has reset the machine, which is about to be closed: the devices that it was asked for do not come back. */
  finish(): void {
    for (const slot of new Set([...[...this.#requests].map((request) => request.slot), ...this.#wanted]))
      this.#settle(slot, this.#tryRemove(slot));
  }

  /** Slots that the owner waits for: a machine that is saved now could not tell them. */
  get awaited(): readonly number[] {
    return [...new Set([...this.#requests].map(({ slot }) => slot))];
  }

  /** What the guest still has to answer, for {@link load}. */
  save(): Uint8Array {
    const counts = new Uint8Array(SLOTS);
    for (const [slot, count] of this.#unanswered) counts[slot] = count;
    return counts;
  }

  /** Takes over a saved state. Returns false if it is none. */
  load(counts: Uint8Array): boolean {
    if (counts.length !== SLOTS || counts[0] !== 0) return false;
    this.#unanswered.clear();
    for (const [slot, count] of counts.entries()) if (count > 0) this.#unanswered.set(slot, count);
    return true;
  }

  #ask(slot: number): void {
    const { guest } = this.#ports;
    const isUnread = guest?.withdrawUnplug(slot) === true;
    if (!isUnread) this.#unanswered.set(slot, (this.#unanswered.get(slot) ?? 0) + 1);
    guest?.requestUnplug(slot);
  }

  #answered(slot: number): void {
    const left = (this.#unanswered.get(slot) ?? 0) - 1;
    if (left > 0) this.#unanswered.set(slot, left);
    else this.#unanswered.delete(slot);
  }

  /** Removes a device that the guest did not release, and lets the guest find out. @throws what failed of closing it */
  #takeAway(slot: number): void {
    const failure = this.#tryRemove(slot);
    this.#settle(slot, failure);
    if (this.#ports.guest !== undefined && !this.#unanswered.has(slot)) this.#ask(slot);
    if (failure !== undefined) throw failure;
  }

  /** Returns what failed; the device is gone in any case. */
  #tryRemove(slot: number): Error | undefined {
    let failure: Error | undefined;
    try {
      this.#ports.devices.remove(slot);
    } catch (error) {
      failure = error instanceof Error ? error : new Error(String(error));
      attachStep(`while detaching: ${failure.message}`);
    }
    this.#wanted.delete(slot);
    this.tell();
    return failure;
  }

  /** Answers all requests for the device of a slot. */
  #settle(slot: number, failure: Error | undefined): void {
    for (const request of this.#requests) {
      if (request.slot !== slot) continue;
      this.#requests.delete(request);
      if (failure === undefined) request.result.resolve();
      else request.result.reject(failure);
    }
  }

  #refused(slot: number, code: number, why: string): SysError {
    const target = this.#ports.devices.find(slot)?.name ?? `PCI slot ${slot}`;
    const hint = `${why}; with force it is removed all the same, as if pulled out`;
    return new SysError({ call: 'detach', target, errno: code, hint });
  }
}

/** @see ACPI 6.5, table 6.17 and 6.18 */
const STATUS: Readonly<Record<number, string>> = {
  1: 'it has no hotplug driver for the slot, or the driver failed',
  2: 'it does not know the notification',
  128: 'the device cannot be ejected',
  129: 'the device is in use by a program',
  130: 'the device is busy',
  131: 'another device that depends on it is busy',
};

function statusText(status: number): string {
  return `${STATUS[status] ?? 'unknown reason'} (_OST status 0x${status.toString(16)})`;
}
