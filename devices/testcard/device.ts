import { sleep } from '../../sys/child.js';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { EventTask } from '../../sys/event-task.js';
import { signalEventfd } from '../../sys/eventfd.js';
import type { Fd } from '../../sys/fd.js';
import { createSharedMemory, type SharedMemory } from '../../sys/mapping.js';
import { Scope } from '../../sys/scope.js';
import { trace } from '../../sys/trace.js';
import type { OpenDevice, PciOps, VfioDeviceOps } from '../../vfio/driver.js';
import {
  type IrqInfo,
  type IrqSet,
  VFIO_PCI_CONFIG_REGION_INDEX,
  VFIO_PCI_INTX_IRQ_INDEX,
} from '../../vfio/uapi.js';
import { DeviceInterrupts, irqInfo } from '../mdev/device-interrupts.js';
import { PciRegions } from '../mdev/pci-regions.js';
import { registerAccess } from '../mdev/region-access.js';
import { RegionOps } from '../mdev/region-ops.js';
import { StopCopyMigration } from '../mdev/stop-copy-migration.js';
import { PCI_COMMAND_INTX_DISABLE, PCI_COMMAND_MASTER } from '../pci/pci-regs.js';
import { ActiveFaults } from './active-faults.js';
import type { Board, BoardCard } from './boards.js';
import type { CardState } from './card-state.js';
import { type ConfigOwner, D3HOT, TestCardConfig } from './config-space.js';
import { DmaEngine } from './dma-engine.js';
import { DmaLog } from './dma-log.js';
import { type Fault, parseFaults } from './faults.js';
import type { CardCommand, RemoteNotice } from './messages.js';
import type { TestCardOptions } from './options.js';
import { CardRegisters } from './registers.js';
import { createRomImage } from './rom-image.js';
import { cardState } from './saved-state.js';
import {
  DOORBELL_AT,
  DOORBELL_BYTES,
  MSIX_PBA_AT,
  MSIX_TABLE_AT,
  PORT_BAR,
  PORT_BAR_BYTES,
  RAM_BAR,
  REGISTER_BAR,
  REGISTER_BAR_BYTES,
  SMALL_BAR,
  SMALL_BAR_BYTES,
} from './spec.js';

const MSIX_ENTRY_BYTES = 16;
const PBA_BYTES = 0x100;

/** Parts of a card, owned by its creator. */
export interface TestCardParts {
  readonly name: string;
  readonly options: TestCardOptions;
  readonly state: CardState;
  readonly task: EventTask;
  readonly doorbells: readonly Fd[];
  /** The slot that it shares with others, if it does. */
  readonly board: Board | undefined;
}

/** A PCI function that has what real cards have, and whose faults can be chosen. Machine thread only. */
export class TestCardDevice extends RegionOps implements VfioDeviceOps, ConfigOwner, BoardCard, Disposable {
  readonly name: string;
  override readonly reset?: () => void;
  readonly pci?: PciOps;
  readonly faults: ActiveFaults;
  readonly migration?: StopCopyMigration;
  readonly dmaLogging: DmaLog;
  protected readonly regions: PciRegions;
  readonly #options: TestCardOptions;
  readonly #state: CardState;
  readonly #config: TestCardConfig;
  readonly #interrupts: DeviceInterrupts;
  readonly #dma: DmaEngine;
  readonly #registers: CardRegisters;
  readonly #memory: readonly SharedMemory[];
  readonly #owned: Disposable;
  readonly #task: EventTask;
  readonly #small = new Uint8Array(SMALL_BAR_BYTES);
  /** Performance clock's time until which a reset of the guest's keeps the card silent. */
  #deadUntil = 0;
  #isDead = false;
  /** Stopped for migration. */
  #isPaused = false;
  /** Without DMA for migration. */
  #isQuiet = false;

  /** @throws SysError ENOMEM */
  constructor({ name, options, state, task, doorbells, board }: TestCardParts) {
    super();
    using scope = new Scope();
    this.name = name;
    this.#options = options;
    this.#state = state;
    this.#task = task;
    if (options.reset !== 'none') this.reset = () => this.#reset();
    if (board !== undefined) this.pci = { slot: board };
    this.faults = new ActiveFaults(options.faults, (fault) => this.#obey(fault));
    this.#config = new TestCardConfig(options, this);
    this.#interrupts = new DeviceInterrupts(name, options, {
      retarget: ({ msix, msi, intx, unmask }) => {
        state.signals.retarget(msix ?? msi);
        state.pin.fd = intx ?? -1;
        if (intx === undefined) state.pin.isMasked = false;
        this.#call({ kind: 'unmaskBy', fd: unmask }); // and whoever signals an old eventfd has done so
      },
      maskIntx: (isMasked) => {
        state.pin.isMasked = isMasked;
      },
      isIntxDisabled: () => this.#isIntxDisabled,
    });
    this.dmaLogging = new DmaLog(name, (command) => this.#call(command));
    this.#dma = new DmaEngine(state, this.dmaLogging, (command) => this.#call(command));
    this.#registers = new CardRegisters(state, this.#dma, this.faults);
    const memory = (what: string, bytes: number) => scope.own(createSharedMemory(`${name} ${what}`, bytes));
    const rest = memory('BAR 0', REGISTER_BAR_BYTES);
    const ram = memory('BAR 2', options.ramBytes);
    this.#memory = [rest, ram];
    this.regions = new PciRegions(name, this.#regionTable(rest, ram, doorbells));
    const parts = { registers: this.#registers, state, dma: this.#dma, memory: this.#contents() };
    const { migration } = options;
    const motion = { stop: () => this.#pause(true), start: () => this.#pause(false) };
    const p2p = (migration === 'p2p' || migration === 'all') && { quiet: (is: boolean) => this.#quiet(is) };
    const hasPreCopy = migration === 'pre-copy' || migration === 'all';
    if (migration !== 'off')
      this.migration = new StopCopyMigration(name, cardState(parts, { ...motion, ...p2p }, hasPreCopy));
    task.receive = (notice) => this.#dma.takeOver(notice as RemoteNotice);
    this.#owned = scope.move();
  }

  // What a user of VFIO calls

  openDevice({ dma }: OpenDevice): void {
    this.#isDead = false;
    this.#deadUntil = 0;
    this.regions.resetConfig();
    this.#dma.attach(dma);
    this.#clear();
    this.#state.set('toLose', this.faults.argument('lose-interrupts'));
    this.#follow();
  }

  closeDevice(): void {
    this.#dma.detach();
    this.dmaLogging.stop();
    this.#interrupts[Symbol.dispose]();
    this.#clear();
  }

  getIrqInfo(index: number): IrqInfo {
    if (index === VFIO_PCI_INTX_IRQ_INDEX && !this.#options.hasIntx) return { index, flags: 0, count: 0 };
    return irqInfo(index, this.#options);
  }

  setIrqs(set: IrqSet): void {
    this.#interrupts.set(set);
  }

  request(): void {
    this.#interrupts.request();
  }

  override read(index: number, offset: number, data: Uint8Array): number {
    this.#takeTime();
    const isConfig = index === VFIO_PCI_CONFIG_REGION_INDEX;
    if (this.#isAbsent || (!isConfig && this.#isAsleep)) data.fill(0xff);
    else super.read(index, offset, data);
    return data.length;
  }

  override write(index: number, offset: number, data: Uint8Array): number {
    this.#takeTime();
    const isConfig = index === VFIO_PCI_CONFIG_REGION_INDEX;
    if (!this.#isAbsent && (isConfig || !this.#isAsleep)) super.write(index, offset, data);
    return data.length;
  }

  /** @see AssignableDevice.inject */
  inject(text: string): void {
    const faults = text === 'none' ? [] : parseFaults(text);
    if (typeof faults === 'string')
      throw new SysError({ call: 'inject', target: this.name, errno: errno.EINVAL, hint: faults });
    if (faults.length === 0) this.faults.clear();
    for (const fault of faults) this.faults.add(fault);
  }

  // What the guest does in configuration space

  get isMsixEnabled(): boolean {
    return this.#interrupts.isMsixEnabled;
  }

  get enabledMsi(): number {
    return this.#interrupts.enabledMsi;
  }

  get isPinAsserted(): boolean {
    return this.#state.pin.isAsserted;
  }

  get pendingMsi(): number {
    return this.enabledMsi > 0 ? this.#state.signals.pendingBits(0) : 0;
  }

  get isStuckInD3(): boolean {
    return this.faults.has('stuck-in-d3');
  }

  get hasBadCapabilities(): boolean {
    return this.faults.has('bad-capabilities');
  }

  get hasLyingBar(): boolean {
    return this.faults.has('lying-bar');
  }

  followConfig(): void {
    this.#follow();
  }

  /** Configuration space loses what the guest wrote, as its driver restores it. */
  resetByConfig(): void {
    if (this.faults.has('reset-fails')) {
      this.#follow();
      return;
    }
    this.#deadUntil = performance.now() + this.faults.argument('reset-hangs');
    this.regions.resetConfig();
    this.#finishReset();
  }

  // The rest

  get resetProblem(): string | undefined {
    const cause = (['reset-fails', 'removed'] as const).find((name) => this.faults.has(name));
    return cause && `the card has the fault ${cause}`;
  }

  /** Configuration space and eventfds remain, because vfio-pci restores them. */
  resetWithBoard(): void {
    sleep(this.faults.argument('reset-hangs'));
    this.#finishReset();
  }

  #reset(): void {
    const hint = this.resetProblem;
    if (hint !== undefined)
      throw new SysError({ call: 'VFIO_DEVICE_RESET', target: this.name, errno: errno.EIO, hint });
    this.resetWithBoard();
  }

  #finishReset(): void {
    this.#clear();
    this.#isDead ||= this.faults.has('dead-after-reset');
    this.#follow();
  }

  #clear(): void {
    this.#dma.stop();
    this.#registers.reset();
    this.#state.reset();
    this.migration?.reset();
    for (const { view } of this.#contents()) view().fill(0);
  }

  /** Memory that the guest fills. */
  #contents(): readonly { readonly bytes: number; readonly view: () => Uint8Array }[] {
    const shared = this.#memory.map(({ mapping }) => ({
      bytes: mapping.bytes,
      view: () => mapping.view.slice(0, mapping.bytes),
    }));
    return [{ bytes: SMALL_BAR_BYTES, view: () => this.#small }, ...shared];
  }

  #pause(isPaused: boolean): void {
    this.#isPaused = isPaused;
    this.#follow();
    this.#dma.isPaused = isPaused || this.#isQuiet;
  }

  /** A transfer that was begun and has not ended begins anew, afterwards. */
  #quiet(isQuiet: boolean): void {
    this.#isQuiet = isQuiet;
    this.#dma.isPaused = isQuiet || this.#isPaused;
  }

  get #isAbsent(): boolean {
    if (this.#isDead || this.faults.has('removed')) return true;
    return this.#deadUntil > 0 && performance.now() < this.#deadUntil;
  }

  get #isAsleep(): boolean {
    return this.#config.powerState === D3HOT;
  }

  get #isIntxDisabled(): boolean {
    return (this.regions.command & PCI_COMMAND_INTX_DISABLE) !== 0;
  }

  /** Bus mastering, masks, power state and faults take effect. */
  #follow(): void {
    const state = this.#state;
    const isSilent = this.#isDead || this.faults.has('removed') || this.#isAsleep;
    const isMaster = !isSilent && (this.regions.command & PCI_COMMAND_MASTER) !== 0;
    this.#dma.isMaster = isMaster;
    this.#dma.isAstray = this.faults.has('dma-astray');
    state.set('isSilent', isSilent ? 1 : 0);
    state.set('ignoresMask', this.faults.has('ignore-mask') ? 1 : 0);
    state.pin.isHeld = isSilent || this.#isPaused;
    state.pin.isDisabled = this.#isIntxDisabled;
    state.signals.isHeld = !isMaster || this.#isPaused;
    state.signals.maskBits = this.enabledMsi > 0 ? this.#config.msiMask : 0;
  }

  /** A fault that comes, or the end of all. */
  #obey(fault: Fault | undefined): void {
    const text = fault === undefined ? 'no faults any more' : `fault ${fault.name}`;
    if (trace.vfio.hasSubscribers) trace.vfio.publish({ what: 'fault', device: this.name, text });
    if (fault?.name === 'request') this.request();
    if (fault?.name === 'spurious-interrupt') this.#state.raise(fault.argument);
    if (fault?.name === 'lose-interrupts') this.#state.set('toLose', fault.argument);
    if (fault === undefined) {
      this.#state.set('toLose', 0);
      this.#isDead = false;
    }
    this.#follow();
  }

  #takeTime(): void {
    const us = this.faults.argument('slow');
    if (us > 0) sleep(us / 1000);
  }

  #regionTable(rest: SharedMemory, ram: SharedMemory, doorbells: readonly Fd[]) {
    const { msix, romBytes, isVf } = this.#options;
    const registers = registerAccess(this.#registers);
    const ring = (offset: number) => {
      const doorbell = doorbells[Math.floor(offset / DOORBELL_BYTES)];
      if (doorbell !== undefined) signalEventfd(doorbell.number);
    };
    const tableBytes = msix * MSIX_ENTRY_BYTES;
    // As in vfio-pci: users set vectors with VFIO_DEVICE_SET_IRQS; the table reads all-ones, and does not change.
    const table = { offset: MSIX_TABLE_AT, size: tableBytes, write: () => {} };
    const pending = registerAccess({
      read: (at) =>
        (this.isMsixEnabled ? this.#state.signals.pendingBits(8 * (at & ~3)) : 0) >>> (8 * (at & 3)),
      write: () => {},
    });
    const areas = [
      { offset: 0, size: DOORBELL_AT, ...registers },
      {
        offset: DOORBELL_AT,
        size: doorbells.length * DOORBELL_BYTES,
        read: (_offset: number, data: Uint8Array) => data.fill(0),
        write: ring,
        ioFds: doorbells.map(({ number }, i) => ({
          offset: DOORBELL_BYTES * i,
          size: DOORBELL_BYTES,
          fd: number,
        })),
      },
      ...(msix > 0 ? [table, { offset: MSIX_PBA_AT, size: PBA_BYTES, ...pending }] : []),
    ];
    const small = this.#small;
    return {
      config: this.#config,
      ...(romBytes > 0 && { rom: createRomImage(romBytes) }),
      bars: [
        { index: REGISTER_BAR, size: REGISTER_BAR_BYTES, memory: rest, areas },
        ...(isVf ? [] : [{ index: PORT_BAR, kind: 'io', size: PORT_BAR_BYTES, ...registers } as const]),
        { index: RAM_BAR, kind: 'memory64', isPrefetchable: true, size: this.#options.ramBytes, memory: ram },
        {
          index: SMALL_BAR,
          size: SMALL_BAR_BYTES,
          read: (offset: number, data: Uint8Array) => data.set(small.subarray(offset, offset + data.length)),
          write: (offset: number, data: Uint8Array) => small.set(data, offset),
        },
      ],
    } as const;
  }

  #call(command: CardCommand): unknown {
    return this.#task.call(command);
  }

  /** Frees the BARs' memory. The device must be unregistered. */
  [Symbol.dispose](): void {
    this.migration?.[Symbol.dispose](); // a stream reads that memory
    this.#owned[Symbol.dispose]();
  }
}
