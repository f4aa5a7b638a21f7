/** A running machine's part of its move. Machine thread only. */
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import { Scope } from '../../sys/scope.js';
import { encodeSections } from '../../sys/state-sections.js';
import type { MemoryMap } from '../assign/memory-map.js';
import { mergeBits } from '../assign/split-slot.js';
import type { SavedMachine, StoppedMachine } from '../snapshot/saved-machine.js';
import { DmaLogs, type LoggedDevice } from './dma-logs.js';
import { PAGE_BYTES, pageBitmap } from './pages.js';
import { PAUSED_SECTION } from './paused-section.js';
import type { MoveBegun, MoveRest } from './source.js';

/** What {@link Mover} needs of its machine. */
export interface MoverParts {
  readonly machine: Pick<SavedMachine, 'check' | 'stop'>;
  /** Its configuration, for the other end. */
  readonly config: () => object;
  readonly memory: Pick<MemoryMap, 'setLogged' | 'takeWritten' | 'regions'>;
  /** Length of all of its RAM. */
  readonly ramBytes: number;
  readonly devices: () => readonly LoggedDevice[];
}

export class Mover {
  readonly #parts: MoverParts;
  #logs: DmaLogs | undefined;
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

  /** Starts the logs. @throws SysError EBUSY if it moves already; ENOTSUP naming what cannot be saved; of the logs */
  begin(): MoveBegun {
    this.refuseWhileMoving('move');
    const { machine, config, memory, devices } = this.#parts;
    machine.check('move');
    using undo = new Scope();
    undo.defer(() => memory.setLogged(false));
    memory.setLogged(true);
    const ram = memory.regions.filter(({ kind }) => kind === 'ram');
    const logs = undo.own(DmaLogs.start(devices(), ram));
    this.#logs = logs;
    this.#scope = undo.move();
    return { config: config(), unlogged: logs.unlogged };
  }

  /** Pages of RAM written since the last call, as they lie in the memory. @throws SysError ESRCH if it does not move; of a device */
  dirty(): Uint8Array<ArrayBuffer> {
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
    if (this.#logs === undefined || this.#stopped !== undefined) throw notMoving();
    this.#parts.machine.check('move'); // a device may have come meanwhile
    using undo = new Scope();
    const stopped = undo.own(this.#parts.machine.stop());
    const paused = { name: PAUSED_SECTION, version: 1, data: Uint8Array.of(isPaused ? 1 : 0) };
    const state = encodeSections([...stopped.sections(), paused]);
    const dirty = this.dirty(); // last, as saving may write, too
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
    this.#stopped = undefined;
    using all = new Scope();
    if (scope !== undefined) all.own(scope);
    if (stopped !== undefined) all.own(stopped);
  }
}

const notMoving = (): SysError =>
  new SysError({ call: 'move', target: 'the machine', errno: errno.ESRCH, hint: 'it does not move' });
