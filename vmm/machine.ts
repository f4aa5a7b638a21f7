import type { VcpuExit } from '../kvm/exits.js';
import { Run } from '../kvm/uapi-vcpu.js';
import type { Vcpu } from '../kvm/vcpu.js';
import type { Vm } from '../kvm/vm.js';
import { errno } from '../sys/errno.js';
import { isErrno, SysError } from '../sys/error.js';
import type { Inbox } from '../sys/inbox.js';
import type { DoorName } from '../sys/ioctl-door.js';
import { monotonicMs } from '../sys/monotonic.js';
import { unreachable } from '../sys/unreachable.js';
import type { RangeBus } from './assign/bus.js';
import type { ExitDispatcher } from './assign/exit-dispatcher.js';
import type { MemoryMap } from './assign/memory-map.js';
import { holdNothing } from './assign/page-track.js';
import type { AssignedDevices } from './assigned-devices.js';
import type { DeviceConfig } from './config.js';
import { chooseDisplay, type DeviceDisplay, listed, nameOf } from './display/device-display.js';
import type { PlaneCommand, ShownPlane } from './display/messages.js';
import { orError } from './error-data.js';
import type { Hotplug } from './hotplug.js';
import { deviceState } from './inspection.js';
import type { Platform } from './linux/platform.js';
import { answerCall, type Later, type MachineCallHandlers } from './machine-calls.js';
import type { MachinePorts } from './machine-ports.js';
import type { Mover } from './move/mover.js';
import { describeCrash, type Outcome } from './outcome.js';
import { Pause } from './pause.js';
import type { Counters, MachineCommand, Phase, RunReport } from './protocol.js';
import type { SerialPorts } from './serial-ports.js';
import type { SnapshotInfo } from './snapshot/folder.js';
import type { Saver } from './snapshot/saver.js';
import { VcpuThreads } from './vcpu-threads.js';

/** Parts of a machine; compose.ts creates and owns them. */
export interface MachineParts {
  readonly ports: MachinePorts;
  readonly memory: MemoryMap;
  readonly pio: RangeBus;
  readonly mmio: RangeBus;
  readonly exits: ExitDispatcher;
  readonly vm: Pick<Vm, 'harvestDirtyRings'>;
  readonly vcpus: readonly Vcpu[];
  /** Calls KVM_RUN. */
  readonly door: DoorName;
  readonly serial: Pick<SerialPorts, 'update' | 'flush' | 'lost'>;
  readonly platform: Pick<Platform, 'pressPowerButton'>;
  readonly devices: Pick<AssignedDevices, 'list' | 'inject' | 'input'>;
  readonly hotplug: Pick<Hotplug, 'attach' | 'detach' | 'expire' | 'finish'>;
  readonly saver: Pick<Saver, 'check' | 'save' | 'unsavable'>;
  readonly mover: Mover;
  /** Lets devices that were loaded go on. */
  readonly start: () => void;
}

const INSTRUCTION_BYTES = 15;
/** Progress codes that are recorded, each with all counters. */
export const MOST_PHASES = 256;
/** How often KVM_RUN of the boot vCPU may fail with EAGAIN in a run: a shortage may be short. */
const MOST_AGAIN = 100;

/** A machine that can run. Machine thread only; {@link run} occupies the thread until the end. */
export class Machine {
  readonly #parts: MachineParts;
  readonly #inbox: Inbox;
  readonly #phases: Phase[] = [];
  readonly #pause = new Pause((isPaused) => this.#reportState(isPaused));
  readonly #calls: MachineCallHandlers = {
    counters: () => this.#counts(),
    inspectDevices: () => this.#parts.devices.list.map(deviceState),
    inspectMemory: () => this.#parts.memory.inspect(),
    timeline: () => this.#parts.ports.timeline(),
    inject: (slot, faults, number) => this.#parts.devices.inject(slot, faults, number),
    resize: (slot, size, head) => chooseDisplay(this.#displays(), slot, head).resize(size),
    input: (slot, events, number) => this.#parts.devices.input(slot, events, number),
    pause: () => this.#pause.request(),
    resume: () => {
      if (this.#parts.mover.isInDoubt) this.#abortMove();
      this.#pause.end();
    },
    moveBegin: () => this.#asOwner(() => this.#parts.mover.begin()),
    moveLook: () => this.#asOwner(() => this.#parts.mover.look()),
    movePiece: () => this.#asOwner(() => this.#parts.mover.piece()),
    moveStop: () => {
      const { isAsked } = this.#pause;
      return this.#pause.hold(() => this.#asOwner(() => this.#parts.mover.stop(isAsked)));
    },
    moveAbort: () => this.#abortMove(),
    moveDoubt: () => {
      this.#parts.mover.doubt();
      this.#pause.request();
    },
    moveFinish: (to) => this.end({ kind: 'moved', to }),
    takeOver: (isPaused) => {
      this.#asOwner(() => this.#parts.start());
      if (!isPaused) this.#pause.end();
    },
    snapshot: (folder, unplugged) => this.#snapshot(folder, unplugged),
    unsavable: () => this.#parts.saver.unsavable,
    reset: () => this.end({ kind: 'reset' }),
    attach: (devices) => {
      this.#parts.mover.refuseWhileMoving('attach');
      return this.#asOwner(() => this.#parts.hotplug.attach(devices));
    },
    detach: (slot, isForced, id) => {
      this.#parts.mover.refuseWhileMoving('detach');
      return this.#asOwner(() => this.#parts.hotplug.detach(slot, isForced, id));
    },
  };
  #outcome: Outcome | undefined;
  #threads: VcpuThreads | undefined;
  #agains = 0;

  constructor(parts: MachineParts) {
    this.#parts = parts;
    this.#inbox = parts.ports.inbox;
  }

  /** The vCPU that runs first; the others wait for it to wake them. */
  get bootVcpu(): Vcpu {
    return this.#parts.vcpus[0] as Vcpu;
  }

  /** Records a progress code: the guest wrote `code` to the POST code port. Linux does so a million times, to wait. */
  mark(code: number): void {
    const { events } = this.#parts.ports;
    if (this.#phases.length === MOST_PHASES) {
      events.drop('phases');
      return;
    }
    const phase = { code, at: monotonicMs(), ...this.#counts() };
    this.#phases.push(phase);
    events.emit({ kind: 'phase', phase });
  }

  /** Ends the run with the given outcome; later calls have no effect. */
  end(outcome: Outcome): void {
    this.#outcome ??= outcome;
  }

  obey(command: MachineCommand): void {
    switch (command.kind) {
      case 'stop':
        this.end({ kind: 'stopped', by: command.by });
        break;
      case 'serial-input':
        this.#parts.serial.update(command.port);
        break;
      case 'flush':
        this.#parts.serial.flush();
        break;
      case 'power-button':
        this.#parts.platform.pressPowerButton();
        break;
      case 'call':
        answerCall(this.#calls, command, (event) => this.#parts.ports.events.emit(event));
        break;
      case 'expire-detach':
        this.#parts.hotplug.expire(command.id, command.timeoutMs);
        break;
      case 'drained':
        this.#parts.serial.update();
        break;
      case 'plane':
        this.#parts.ports.events.emit({
          kind: 'plane',
          id: command.id,
          answer: orError(() => this.#look(command)),
        });
        break;
      case 'displays':
        this.#parts.ports.events.emit({
          kind: 'displays',
          id: command.id,
          displays: this.#displays().map(listed),
        });
        break;
      default:
        unreachable(command);
    }
  }

  #look({ slot, head, isCopied }: PlaneCommand): ShownPlane {
    const display = chooseDisplay(this.#displays(), slot, head);
    const shown = isCopied ? display.still() : display.look();
    return { ...shown, accesses: this.#accessesTo(display.device) };
  }

  /** Trapped accesses to the BARs of a device. */
  #accessesTo(name: string): number {
    const { pio, mmio } = this.#parts;
    let sum = 0;
    for (const bus of [pio, mmio])
      for (const [device, accesses] of bus.accesses()) if (device.startsWith(`${name} `)) sum += accesses;
    return sum;
  }

  /** Runs the guest until it ends or is stopped. Blocks the thread. @throws SysError if KVM_RUN itself fails */
  run(): RunReport {
    const [first] = this.#parts.vcpus;
    const { events, startsPaused } = this.#parts.ports;
    if (startsPaused) this.#pause.request();
    else this.#reportState(false);
    events.isGuestRunning = true;
    const outcome =
      this.#parts.vcpus.length === 1 && first !== undefined ? this.#runHere(first) : this.#runThreads();
    events.isGuestRunning = false;
    this.#parts.serial.flush();
    this.#keepPictures();
    const report: RunReport = {
      outcome,
      phases: this.#phases,
      dropped: this.#dropped(),
      ffi: this.#parts.door,
      ...this.#counts(),
    };
    if (outcome.kind === 'reset') this.#parts.hotplug.finish();
    return report;
  }

  /** Steps that the owner causes are not counted as the guest's. */
  #asOwner<T>(action: () => T): T {
    const { events } = this.#parts.ports;
    events.isGuestRunning = false;
    try {
      return action();
    } finally {
      events.isGuestRunning = true;
    }
  }

  #snapshot(folder: string, unplugged: readonly DeviceConfig[]): Later<SnapshotInfo> {
    const { saver, mover } = this.#parts;
    mover.refuseWhileMoving('snapshot');
    saver.check(folder);
    return this.#pause.during(() => this.#asOwner(() => saver.save(folder, unplugged)));
  }

  #abortMove(): void {
    this.#asOwner(() => this.#parts.mover.abort());
    this.#pause.release();
  }

  /** In slot order. */
  #displays(): readonly DeviceDisplay[] {
    const displays = this.#parts.devices.list.flatMap((device) => device.displays);
    return displays.sort((a, b) => a.slot - b.slot || a.head - b.head);
  }

  /** Saves the devices' pictures before the devices are reset, so that they can be captured after the run. */
  #keepPictures(): void {
    const { ports } = this.#parts;
    const stills = this.#displays().map((display) => ({
      ...nameOf(display),
      answer: orError(() => display.still()),
    }));
    if (stills.length > 0) ports.events.emit({ kind: 'stills', stills });
  }

  /** Runs the only vCPU in this thread, which handles its exits without waking another one. */
  #runHere(vcpu: Vcpu): Outcome {
    const inbox = this.#inbox;
    inbox.enterRun(vcpu.handle.address + Run.offsets.immediate_exit);
    try {
      for (;;) {
        if (inbox.hasNews) this.#hear();
        if (this.#outcome !== undefined) return this.#outcome;
        if (this.#pause.isWanted) {
          this.#stopHere(vcpu);
          continue;
        }
        const exit = vcpu.run();
        // Cleared before the inbox is read: a later ring interrupts the next KVM_RUN, an earlier one is read now.
        if (exit.kind === 'interrupted') vcpu.page.setImmediateExit(false);
        if (!this.#dispatch(0, exit)) this.end(this.#crash(0, exit));
      }
    } finally {
      inbox.leaveRun();
    }
  }

  /** One step on the way to an instruction boundary, of which a guest can make many; or a wait for news, once there. */
  #stopHere(vcpu: Vcpu): void {
    if (this.#pause.isPaused) {
      this.#inbox.wait();
      return;
    }
    const exit = vcpu.completeAccess();
    if (exit.kind === 'interrupted') this.#completePause();
    else if (!this.#dispatch(0, exit)) this.end(this.#crash(0, exit));
  }

  #hear(): void {
    this.#inbox.drain();
    if (this.#inbox.isStopping) this.end({ kind: 'stopped', by: 'exit of the process' });
  }

  /**
   * Takes all vCPUs out of the guest until the result is disposed, for a change of its memory. The machine thread calls it,
   * so that its own vCPU is outside.
   */
  hold(): Disposable {
    return this.#threads?.hold() ?? holdNothing();
  }

  /** Runs two or more vCPUs, each in a thread of its own; this thread handles their exits. */
  #runThreads(): Outcome {
    const { vcpus, ports, door } = this.#parts;
    const threads = new VcpuThreads(vcpus, ports.vcpuThreads, door, this.#pause.isWanted);
    this.#threads = threads;
    for (;;) {
      this.#hear();
      threads.isPausing = this.#pause.isWanted;
      threads.answer((index, result) => this.#outcome === undefined && this.#answer(index, result));
      if (this.#outcome !== undefined) return this.#outcome;
      if (this.#pause.isWanted && !this.#pause.isPaused && threads.areAllParked) this.#completePause();
      this.#inbox.wait();
    }
  }

  /** Whether the vCPU can continue. */
  #answer(index: number, result: number): boolean {
    const vcpu = this.#parts.vcpus[index] as Vcpu;
    const exit = vcpu.page.exit(result, vcpu.fd.target);
    if (this.#dispatch(index, exit)) return true;
    this.end(this.#crash(index, exit));
    return false;
  }

  /** All vCPUs are at an instruction boundary. */
  #completePause(): void {
    for (const vcpu of this.#parts.vcpus) {
      try {
        vcpu.kvmclockCtrl();
      } catch (error) {
        if (!isErrno(error, 'EINVAL')) throw error; // the guest does not use kvmclock
      }
    }
    this.#pause.complete();
  }

  #reportState(isPaused: boolean): void {
    this.#parts.ports.events.emit({ kind: 'state', state: isPaused ? 'paused' : 'running' });
  }

  #dispatch(index: number, exit: VcpuExit): boolean {
    if (index === 0 && exit.kind === 'again') this.#countAgain();
    if (this.#parts.exits.dispatch(index, exit)) return true;
    if (exit.kind !== 'dirty-ring-full') return false;
    this.#parts.vm.harvestDirtyRings();
    return true;
  }

  /**
   * EAGAIN tells a vCPU that was woken to run again. The boot vCPU runs from the start: with it, KVM could not make the
   * thread that it needs for a VM, and would answer the same for ever.
   */
  #countAgain(): void {
    if (++this.#agains <= MOST_AGAIN) return;
    const hint =
      'the host allows no more threads, and KVM needs one: see `ulimit -u`, and pids.max of the control group';
    throw new SysError({ call: 'KVM_RUN', target: this.bootVcpu.fd.target, errno: errno.EAGAIN, hint });
  }

  #crash(index: number, exit: VcpuExit): Outcome {
    const vcpu = this.#parts.vcpus[index] as Vcpu;
    const regs = vcpu.getRegs();
    return describeCrash(exit, { vcpu: index, regs, code: this.#codeAt(vcpu, regs.rip) });
  }

  #codeAt(vcpu: Vcpu, rip: bigint): Uint8Array {
    try {
      const { valid, physical_address } = vcpu.translate(rip);
      return valid === 0
        ? new Uint8Array(0)
        : this.#parts.memory.ram(physical_address, INSTRUCTION_BYTES).slice();
    } catch {
      return new Uint8Array(0); // not in RAM, or not translatable in this state, which the report shows
    }
  }

  #dropped(): RunReport['dropped'] {
    const { ports, serial } = this.#parts;
    return { ...ports.events.dropped, ...(serial.lost > 0 && { serialBytes: serial.lost }) };
  }

  #counts(): Counters {
    const { exits, pio, mmio, devices } = this.#parts;
    return {
      exits: exits.counts(),
      accesses: Object.fromEntries([...pio.accesses(), ...mmio.accesses()]),
      devices: devices.list.map(({ name, assigned: { device } }) => ({
        name,
        description: device.description,
        counters: device.counters?.() ?? {},
      })),
    };
  }
}
