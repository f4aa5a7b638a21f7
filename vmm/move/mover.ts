/** A running machine's part of its move. Machine thread only. */
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { Scope } from '../../sys/scope.js';
import { encodeSections } from '../../sys/state-sections.js';
import type { MemoryMap } from '../assign/memory-map.js';
import { mergeBits } from '../assign/split-slot.js';
import type { SavedMachine, StoppedMachine } from '../snapshot/saved-machine.js';
import type { DevicePiece } from './arriving-devices.js';
import { DmaLogs } from './dma-logs.js';
import { PIECE_BYTES } from './frames.js';
import { PAGE_BYTES, pageBitmap } from './pages.js';
import { PAUSED_SECTION } from './paused-section.js';
import { type PreCopiedDevice, PreCopies } from './pre-copies.js';
import type { MoveBegun, MoveLook, MoveRest } from './source.js';

/** What {@link Mover} needs of its machine. */
export interface MoverParts {
  readonly machine: Pick<SavedMachine, 'check' | 'stop'>;
  /** Its configuration, for the other end. */
  readonly config: () => object;
  readonly memory: Pick<MemoryMap, 'setLogged' | 'takeWritten' | 'regions'>;
  /** Length of all of its RAM. */
  readonly ramBytes: number;
  readonly devices: () => readonly PreCopiedDevice[];
}

export class Mover {
  readonly #parts: MoverParts;
  #logs: DmaLogs | undefined;
  #preCopies: PreCopies | undefined;
  #scope: Scope | undefined;
  #stopped: StoppedMachine | undefined;
  #isInDoubt = false;

  constructor(parts: MoverParts) {
    this.#parts = parts;
  }

  /** Whether the machine stands still since the last word, and nobody knows whether it runs elsewhere. */
  get isInDoubt(): boolean {
    return this.#isInDoubt;
  }

  /** @param call that cannot be made while the machine moves @throws SysError EBUSY */
  refuseWhileMoving(call: string): void {
    if (this.#scope === undefined) return;
    const hint = 'the machine is moving: wait for the end of that, or abort it';
    throw new SysError({ call, target: 'the machine', errno: errno.EBUSY, hint });
  }

  /** Starts the logs and PRE_COPY. @throws SysError EBUSY if it moves already; ENOTSUP naming what cannot be saved; of the devices */
  begin(): MoveBegun {
    this.refuseWhileMoving('move');
    const { machine, config, memory, devices } = this.#parts;
    machine.check('move');
    using undo = new Scope();
    undo.defer(() => memory.setLogged(false));
    memory.setLogged(true);
    const ram = memory.regions.filter(({ kind }) => kind === 'ram');
    const logs = undo.own(DmaLogs.start(devices(), ram));
    this.#preCopies = undo.own(PreCopies.begin(devices()));
    this.#logs = logs;
    this.#scope = undo.move();
    return { config: config(), unlogged: logs.unlogged };
  }

  /** What was written since the last call; a round of the devices begins. @throws SysError ESRCH if it does not move; of a device */
  look(): MoveLook {
    if (this.#preCopies === undefined) throw notMoving();
    return { dirty: this.#dirty(), devices: this.#preCopies.beginRound() };
  }

  /** The next piece of a device in this round; undefined at its end. @throws SysError as {@link look} */
  piece(): DevicePiece | undefined {
    if (this.#preCopies === undefined) throw notMoving();
    return this.#preCopies.next(PIECE_BYTES);
  }

  /** Pages of RAM, as they lie in the memory. */
  #dirty(): Uint8Array<ArrayBuffer> {
    const { memory, ramBytes } = this.#parts;
    const logs = this.#logs;
    if (logs === undefined) throw notMoving();
    const all = pageBitmap(ramBytes);
    for (const { region, offset, pages } of memory.takeWritten()) {
      logs.collect(region, pages);
      mergeBits(all, Number(offset) / PAGE_BYTES, pages, Number(region.bytes) / PAGE_BYTES);
    }
    return all;
  }

  /** Stops the devices. All vCPUs are at an instruction boundary, and stay there. @param isPaused whether somebody has asked for that */
  stop(isPaused: boolean): MoveRest {
    if (this.#logs === undefined || this.#preCopies === undefined || this.#stopped !== undefined)
      throw notMoving();
    this.#parts.machine.check('move'); // a device may have come meanwhile
    using undo = new Scope();
    const stopped = undo.own(this.#parts.machine.stop(this.#preCopies.all));
    const paused = { name: PAUSED_SECTION, version: 1, data: Uint8Array.of(isPaused ? 1 : 0) };
    const state = encodeSections([...stopped.sections(), paused]);
    const dirty = this.#dirty(); // last, as saving may write, too
    undo.move();
    this.#stopped = stopped;
    return { state, dirty };
  }

  /** The other end may run it. */
  doubt(): void {
    this.#isInDoubt = true;
  }

  /** The devices go on, and the logs end. Does nothing if it does not move. */
  abort(): void {
    this.#isInDoubt = false;
    const scope = this.#scope;
    const stopped = this.#stopped;
    this.#scope = undefined;
    this.#logs = undefined;
    this.#preCopies = undefined;
    this.#stopped = undefined;
    using all = new Scope();
    if (scope !== undefined) all.own(scope);
    if (stopped !== undefined) all.own(stopped);
  }
}

const notMoving = (): SysError =>
  new SysError({ call: 'move', target: 'the machine', errno: errno.ESRCH, hint: 'it does not move' });
