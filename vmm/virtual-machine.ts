import { resolve } from 'node:path';
import { installKickSignal } from '../sys/kick.js';
import type { InputEvent } from '../vfio/driver.js';
import {
  type DeviceConfig,
  type DeviceConfigInput,
  parseConfig,
  parseDevices,
  type VmConfig,
  type VmConfigInput,
} from './config.js';
import { ConfigError } from './config-error.js';
import type { ConsoleRing } from './console-ring.js';
import type { DisplayName } from './display/messages.js';
import { encodePng, toPicture } from './display/png.js';
import type { ScreenSize } from './display/screen-size.js';
import type { Look } from './display/screens.js';
import type { DeviceState, MemoryRange, TimelineRecord } from './inspection.js';
import { MachineLifetime } from './machine-lifetime.js';
import type {
  DetachOptions,
  MachineInfo,
  MachineState,
  ReceiveOptions,
  VmObserver,
} from './machine-types.js';
import { ownMappings, pagesOf } from './mapped-pages.js';
import { Incoming, type MachineOrigin } from './move/incoming.js';
import type { MoveOptions, MoveResult } from './move/source.js';
import type { Counters, RunReport } from './protocol.js';
import { isSealed } from './sandbox/state.js';
import type { SerialPortInfo } from './serial-links.js';
import { type SnapshotInfo, sandboxed } from './snapshot/folder.js';
import { type RestoreChanges, Restoring } from './snapshot/restore.js';
import { type SnapshotOptions, saveUnplugged, type UnpluggableMachine } from './snapshot/unplugged-save.js';

export type { DetachOptions, MachineInfo, MachineState, VmObserver } from './machine-types.js';

const DETACH_TIMEOUT_MS = 30_000;
const EXPIRE_AGAIN_MS = 1000;
/** The longest time of a timer in Node. */
const MOST_TIMEOUT_MS = 2 ** 31 - 1;

/**
 * A virtual machine. It runs in threads of its own: the machine thread, the event thread, and one thread per vCPU if
 * there are two or more. Main thread only, which unmaps the memory after all of these threads have ended.
 */
export class VirtualMachine implements AsyncDisposable {
  /** The configuration it was started with; {@link devices} are those it has now. */
  readonly config: VmConfig;
  /**
   * Resolves to the run's report once everything is closed. Rejects with the error that prevented the machine from
   * starting, or ended it; everything is closed then, too.
   */
  readonly finished: Promise<RunReport>;
  readonly #lifetime: MachineLifetime;
  #lastDetach = 0;

  private constructor(config: VmConfig, observer: VmObserver, origin?: MachineOrigin) {
    this.config = config;
    this.#lifetime = new MachineLifetime(config, observer, origin);
    this.finished = this.#lifetime.finished;
  }

  /**
   * Starts a machine. Returns immediately.
   * @throws ConfigError if the configuration is invalid, or has a sandbox that this process has not entered
   */
  static start(config: VmConfigInput, observer: VmObserver = {}): VirtualMachine {
    const parsed = parseConfig(config);
    if (parsed.sandbox.mode !== 'off' && !isSealed()) {
      const text = 'this process has none: call enterSandbox first, and seal() what it returns';
      throw new ConfigError([{ path: 'sandbox', text }]);
    }
    installKickSignal();
    return new VirtualMachine(parsed, observer);
  }

  /**
   * Starts a machine where another one was saved by {@link snapshot}. Returns immediately. Its memory is mapped from the folder, whose
   * pages are read when they are touched, and never written: any number of machines can start from one folder at a time. If other
   * processes map the memory, it is copied. A reset boots what the configuration says.
   * @param changes of the configuration: back-ends of the devices, ends of the serial ports
   * @throws SysError ENOENT for a folder that is not there; EINVAL, EBADMSG, ENOTSUP for what is no state, naming the section;
   *   ConfigError for a configuration that is not valid here. What does not fit the machine ends it: {@link finished} rejects
   */
  static restore(folder: string, changes: RestoreChanges = {}, observer: VmObserver = {}): VirtualMachine {
    const restoring = Restoring.open(folder, changes);
    installKickSignal();
    return new VirtualMachine(restoring.config, observer, restoring);
  }

  /**
   * Receives a machine that {@link migrateTo} sends: listens for one connection, and resolves when the machine runs here. A reset boots
   * what its configuration says.
   * @param address `unix:PATH`, for this user alone, or `tcp:HOST:PORT`: who can connect there can send a machine, and what comes is not
   *   encrypted, so that this belongs into a network of its own
   * @param changes of the configuration, as for {@link restore}
   * @throws SysError EADDRINUSE, EINVAL for the address; EPROTO, EBADMSG, ENOTSUP for what is no machine; ETIMEDOUT, ECONNRESET;
   *   ConfigError for a configuration that is not valid here; what keeps the machine from starting. It then runs on where it was
   */
  static async receive(
    address: string,
    changes: RestoreChanges = {},
    observer: VmObserver = {},
    options: ReceiveOptions = {},
  ): Promise<VirtualMachine> {
    let vm: VirtualMachine | undefined;
    const create = async (config: Readonly<Record<string, unknown>>) => {
      const incoming = Incoming.of(config, changes);
      installKickSignal();
      vm = new VirtualMachine(incoming.config, observer, incoming);
      return { vm, ...(await incoming.arrive(vm.#lifetime)) };
    };
    const { receiveAt } = await import('./move/ends.js'); // node:net and more, which most machines never need
    const received = await receiveAt(address, options, create, async () => vm?.[Symbol.asyncDispose]());
    return received.vm;
  }

  /**
   * Moves the machine to a process that waits for it by {@link receive}: its memory is copied while it runs, again what it writes meanwhile,
   * and when little is left it stops here and runs there. Resolves when it does; {@link finished} then has the outcome `moved`. If this
   * rejects, it runs on here: one of the two has it at any time.
   * @param address `unix:PATH` or `tcp:HOST:PORT`
   * @throws SysError ENOTSUP naming every device that cannot be saved; EBUSY if it is moving already; EPERM for a machine in a sandbox;
   *   ECONNREFUSED, ENOENT, ETIMEDOUT, ECONNRESET; EPROTO with what the other end says; ETIME if it would stand still for longer than
   *   `downtimeMs`; ENOTRECOVERABLE if the other end is lost after it was told to go on: the machine is paused here then, for {@link resume}
   *   or {@link stop}; what `signal` is aborted with
   */
  async migrateTo(address: string, options: MoveOptions = {}): Promise<MoveResult> {
    if (this.config.sandbox.mode !== 'off') throw sandboxed(address);
    const { migrate } = await import('./move/ends.js');
    return migrate(address, options, () => this.#lifetime.memory(), this.#lifetime.calls);
  }

  /** Ends the run between two instructions of the guest. Returns immediately: await {@link finished}. */
  stop(by = 'request'): void {
    this.#lifetime.stop(by);
  }

  /** What the machine is, and what it does now. Never throws; works after the end, too. */
  info(): MachineInfo {
    return this.#lifetime.info();
  }

  /**
   * The assigned devices as they are now: provider, group, BARs with the exits of their pages, interrupts, counters.
   * @throws SysError as {@link counters}
   */
  inspectDevices(): Promise<readonly DeviceState[]> {
    return this.#lifetime.calls.call('inspectDevices');
  }

  /**
   * The guest's memory, by guest physical address: RAM, and the mapped parts of BARs; where each range is in this process and
   * for the devices, how long the maps took, and the pages in use. Reading the pages takes the main thread milliseconds for
   * each GiB that is not in huge pages; the guest runs meanwhile.
   * @throws SysError as {@link counters}
   */
  async inspectMemory(): Promise<readonly MemoryRange[]> {
    const regions = await this.#lifetime.calls.call('inspectMemory');
    const mappings = ownMappings();
    return regions.map((region) => ({ ...region, pages: pagesOf(mappings, region.hva, region.bytes) }));
  }

  /** The record of VFIO's operations since the machine started: what associated what, and why. @throws SysError as {@link counters} */
  timeline(): Promise<TimelineRecord> {
    return this.#lifetime.calls.call('timeline');
  }

  /** The last 64 KiB of COM1's output, over resets; nothing if its end is a pty, a socket or a file. */
  get console(): ConsoleRing {
    return this.#lifetime.output.console;
  }

  /** What the machine does now. */
  get state(): MachineState {
    return this.#lifetime.state;
  }

  /**
   * Stops all vCPUs at an instruction boundary; resolves once they have. Time passes for the guest: its TSC, kvmclock, timers
   * and clocks do not stop, and a kvmclock guest is told (KVM_KVMCLOCK_CTRL), so that its watchdogs report no lockup. Devices
   * do not stop either: they can do DMA, and their interrupts wait for the vCPUs. Calls such as {@link screenshot} work.
   * @throws SysError as {@link counters}; ECANCELED if {@link resume} is called before all have stopped
   */
  pause(): Promise<void> {
    return this.#lifetime.calls.call('pause');
  }

  /** Lets a paused machine continue; one that runs does. @throws SysError as {@link counters} */
  resume(): Promise<void> {
    return this.#lifetime.calls.call('resume');
  }

  /**
   * Resets the machine, as the button on a PC's case does: it is closed and started anew, paused if it was. If the
   * configuration's `reboot` is false, the run ends. Resolves when the reset begins.
   * @throws SysError as {@link counters}
   */
  reset(): Promise<void> {
    return this.#lifetime.calls.call('reset');
  }

  /**
   * Gives a device faults, for tests: a text that its driver knows, as `removed` or `slow:500+ignore-mask` of the test card; `none`
   * takes all away.
   * @param number of the function in that slot
   * @throws SysError EINVAL for another text, with the faults that there are; ENODEV for an empty slot; ENOTSUP for a device that has
   *   no faults to give; and as {@link counters}
   */
  inject(slot: number, faults: string, number = 0): Promise<void> {
    return this.#lifetime.calls.call('inject', slot, faults, number);
  }

  /**
   * Sends a guest's keyboard, tablet or mouse a packet of events at one instant, as virtio-input has them; SYN_REPORT ends it by itself.
   * All of it arrives, or none if the guest's driver is not there, or does not take events as fast.
   * @param number of the function in that slot
   * @throws SysError EINVAL for an event that the device does not have, or a packet of none or of more than 32; ENODEV for an empty slot;
   *   ENOTSUP for a device that takes no events; and as {@link counters}
   */
  input(slot: number, events: readonly InputEvent[], number = 0): Promise<void> {
    return this.#lifetime.calls.call('input', slot, events, number);
  }

  /**
   * Saves the machine to a folder, for {@link restore}: it pauses, its devices stop, and both go on when all is on the disk; one that
   * is paused stays so. The folder is replaced at once: a failure leaves the one that was there. It is readable by this user only.
   * @throws SysError ENOTSUP naming every device that cannot be saved, before anything is written; EBUSY while a device is being
   *   detached; EPERM for a machine in a sandbox; of the device or the call that failed, as ENOSPC; of {@link detach} and
   *   {@link attach} for a device that is unplugged for it; those of {@link counters}
   */
  async snapshot(
    folder: string,
    { detachUnmigratable = false, timeoutMs }: SnapshotOptions = {},
  ): Promise<SnapshotInfo> {
    if (this.config.sandbox.mode !== 'off') throw sandboxed(folder);
    const save = (path: string, unplugged: readonly DeviceConfig[]) =>
      this.#lifetime.calls.call('snapshot', path, unplugged);
    if (!detachUnmigratable) return save(resolve(folder), []);
    const machine: UnpluggableMachine = {
      devices: () => this.devices,
      isPaused: this.state === 'paused',
      unsavable: () => this.#lifetime.calls.call('unsavable'),
      detach: (slot, options) => this.detach(slot, options),
      attach: (devices) => this.attach(devices),
      save,
    };
    return saveUnplugged(machine, resolve(folder), timeoutMs);
  }

  /** Requests a shutdown through ACPI; the guest decides whether and when it shuts down. */
  pressPowerButton(): void {
    this.#lifetime.send({ kind: 'power-button' });
  }

  /**
   * Sends input to a serial port whose end is `observer` or `stdio`. At most 4 KiB wait for the guest; the rest of `bytes`,
   * which must not change meanwhile, follows as the guest reads. Await the result before you send more.
   * @param port 0 for COM1
   * @returns resolves to true once the port has taken all of it, in the order of the calls; to false if the machine ended
   *   before that. Never rejects
   * @throws RangeError if that port is not there, or has another end
   */
  typeSerial(bytes: Uint8Array, port = 0): Promise<boolean> {
    return this.#lifetime.serial.type(port, bytes);
  }

  /**
   * The serial ports that are there, once their ends are open: a pty has the path of its terminal only then.
   * @throws SysError of the host if an end cannot be opened, as {@link finished} does
   */
  serialPorts(): Promise<readonly SerialPortInfo[]> {
    return this.#lifetime.serial.opened;
  }

  /**
   * Reads the machine's counters while it runs; {@link RunReport} has those of the end.
   * @throws SysError ESRCH once the machine has ended; ECONNRESET if it restarts meanwhile; EBUSY while 64 calls are
   *   unanswered
   */
  counters(): Promise<Counters> {
    return this.#lifetime.calls.call('counters');
  }

  /**
   * The devices attached now, in the order in which they were attached, with their slots once the machine has them. A restarted
   * guest has the same.
   */
  get devices(): readonly DeviceConfig[] {
    return this.#lifetime.devices;
  }

  /**
   * Attaches devices while the guest runs, all or none: if one fails, those before it are detached again, last attached
   * first, and the guest has seen none of them. Linux is notified by ACPI; a guest without ACPI finds the device in
   * configuration space. The guest stands still while the device is opened, and while its memory is pinned for the first
   * one of the host.
   * @returns the PCI slots
   * @throws ConfigError for a wrong address or option, or a device that a sandbox excludes; SysError EBUSY for a slot that is taken, or that the guest has not
   *   released yet; ENOSPC if none is left; EINVAL if the device needs guest memory that other processes can map, and it was
   *   started without; EPERM or EACCES if a sandbox forbids what it needs; the error of the failed step; those of {@link counters}
   */
  attach(device: DeviceConfigInput): Promise<number>;
  attach(devices: readonly DeviceConfigInput[]): Promise<readonly number[]>;
  attach(devices: DeviceConfigInput | readonly DeviceConfigInput[]): Promise<number | readonly number[]>;
  async attach(input: DeviceConfigInput | readonly DeviceConfigInput[]): Promise<number | readonly number[]> {
    const isList = Array.isArray(input);
    const devices = parseDevices(isList ? input : [input]);
    const slots = await (this.config.sandbox.mode === 'off'
      ? this.#lifetime.calls.call('attach', devices)
      : this.#attachInSandbox(devices));
    return isList ? slots : (slots[0] as number);
  }

  async #attachInSandbox(devices: readonly DeviceConfig[]): Promise<readonly number[]> {
    const { checkAttachable, mayBeForbidden } = await import('./sandbox/forbidden.js');
    checkAttachable(devices);
    try {
      return await this.#lifetime.calls.call('attach', devices);
    } catch (error) {
      throw mayBeForbidden(error);
    }
  }

  /**
   * Detaches the device in a PCI slot and closes it, once the guest has released it. If the guest refuses or takes too long,
   * the device stays attached; the guest may still release it later. A guest without ACPI hotplug, and any with `force`, is
   * not asked: its reads return ones from then on.
   * @throws SysError ENODEV for a slot without a device; EBUSY if the guest refuses; ETIMEDOUT; the error of a step of
   *   closing, after which the device is gone all the same; RangeError for a wrong `timeoutMs`; those of {@link counters}
   */
  async detach(
    slot: number,
    { force = false, timeoutMs = DETACH_TIMEOUT_MS }: DetachOptions = {},
  ): Promise<void> {
    if (!(timeoutMs >= 0 && timeoutMs <= MOST_TIMEOUT_MS))
      throw new RangeError(`detach: timeoutMs is ${timeoutMs}: 0 to ${MOST_TIMEOUT_MS} are possible`);
    const id = ++this.#lastDetach;
    // Again, should the machine restart just then.
    const expire = () => {
      this.#lifetime.send({ kind: 'expire-detach', id, timeoutMs });
      timer = setTimeout(expire, EXPIRE_AGAIN_MS);
    };
    let timer = setTimeout(expire, timeoutMs);
    try {
      await this.#lifetime.calls.call('detach', slot, force, id);
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * Captures a device's display as PNG, with its cursor; after the run, its last picture. The guest keeps running.
   * @param slot PCI slot of the device; the first display if undefined
   * @param head which screen of a device that has several, from 0 on; the first if undefined
   * @throws SysError ENODEV if there is no such display; ENODATA while it displays nothing; EINVAL for an unsupported
   *   pixel format
   */
  screenshot(slot?: number, head?: number): Promise<Uint8Array> {
    return this.capture(slot, undefined, head).then(toPicture).then(encodePng);
  }

  /**
   * As {@link screenshot}, but passes the pixels to `use` where the guest draws them, without a copy and a cursor. They are valid only
   * during that call.
   */
  look<T>(slot: number | undefined, use: (look: Look) => T, head?: number): Promise<T> {
    return this.#lifetime.screens.look(slot, use, head);
  }

  /**
   * As {@link screenshot}, but resolves to a copy of the pixels: never half of two frames, as long as the guest shows a frame
   * through registers that trap.
   * @param into memory for the pixels, used if it has their size
   * @param since an earlier result of the same screen, with its pixels as they were: returned itself if the device says that it has drawn
   *   nothing since, as a virtio-gpu does
   */
  capture(slot?: number, into?: Uint8Array, head?: number, since?: Look): Promise<Look> {
    return this.#lifetime.screens.capture(slot, into, head, since);
  }

  /**
   * Tells the guest that a screen has another size, by its EDID: a virtio-gpu's driver is told at once, that of a vgpu when it reads it.
   * @param slot PCI slot of the display; the first one if undefined
   * @param head which screen of a device that has several, from 0 on
   * @throws SysError ENODEV if there is no such display; ENOTSUP if its EDID cannot be replaced; EINVAL for a size that it cannot have;
   *   and as {@link counters}
   */
  resize(slot: number | undefined, size: ScreenSize, head = 0): Promise<void> {
    return this.#lifetime.calls.call('resize', slot, size, head);
  }

  /** The devices that can be captured, in slot order; after the run, those that there were. */
  displays(): Promise<readonly DisplayName[]> {
    return this.#lifetime.screens.displays();
  }

  /** Stops the machine if it runs, and waits until everything is closed. Never rejects. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.stop();
    await this.finished.catch(() => {});
  }
}
