/** Calls of the main thread on the running machine: their types, and the machine thread's end. @see calls.ts, the other */

import type { InputEvent } from '../vfio/driver.js';
import type { MemoryRegionState } from './assign/memory-map.js';
import type { DeviceConfig } from './config.js';
import type { ScreenSize } from './display/screen-size.js';
import { encodeError } from './error-data.js';
import type { DeviceState, TimelineRecord } from './inspection.js';
import type { DevicePiece } from './move/arriving-devices.js';
import type { MoveBegun, MoveLook, MoveRest } from './move/source.js';
import type { Counters, MachineEvent } from './protocol.js';
import type { SnapshotInfo } from './snapshot/folder.js';
import type { UnsavableDevice } from './snapshot/unplugged-save.js';

/** The calls by name. Arguments and results are plain data, because they cross threads. */
export interface MachineCalls {
  counters(): Counters;
  /** Its assigned devices. */
  inspectDevices(): readonly DeviceState[];
  inspectMemory(): readonly MemoryRegionState[];
  timeline(): TimelineRecord;
  /** Attaches devices, all or none. Returns their slots. */
  attach(devices: readonly DeviceConfig[]): readonly number[];
  /** Detaches a device, once the guest has released it, or by force. @param id for the command `expire-detach` */
  detach(slot: number, isForced: boolean, id: number): void;
  /** Gives a device faults. @see AssignableDevice.inject */
  inject(slot: number, faults: string, number: number): void;
  /** Sends a device's guest events. @see AssignableDevice.input */
  input(slot: number, events: readonly InputEvent[], number: number): void;
  /** Gives a screen of the display in a slot another size. */
  resize(slot: number | undefined, size: ScreenSize, head: number): void;
  /** Stops all vCPUs at an instruction boundary. */
  pause(): void;
  /** Lets them continue. */
  resume(): void;
  /**
   * Saves the machine to a folder, at an instruction boundary; it goes on then, unless it is paused.
   * @param unplugged devices that it has, but not at this moment
   */
  snapshot(folder: string, unplugged: readonly DeviceConfig[]): SnapshotInfo;
  /** The devices that cannot be saved. */
  unsavable(): readonly UnsavableDevice[];
  /** Begins to move the machine: starts the logs of what is written. */
  moveBegin(): MoveBegun;
  /** What was written since {@link moveBegin} or the last call. */
  moveLook(): MoveLook;
  /** The next piece of a device that is copied while it runs. */
  movePiece(): DevicePiece | undefined;
  /** Stops vCPUs and devices. */
  moveStop(): MoveRest;
  /** Ends the move; the machine goes on. */
  moveAbort(): void;
  /** The machine stays as it is, paused, until somebody resumes it. */
  moveDoubt(): void;
  /** Ends the run: it goes on elsewhere. */
  moveFinish(to: string): void;
  /** A machine that was received goes on. */
  takeOver(isPaused: boolean): void;
  /** Ends the run as a guest's reset does. */
  reset(): void;
}

export type MachineCallName = keyof MachineCalls;
export type MachineCallArgs<K extends MachineCallName> = Parameters<MachineCalls[K]>;
export type MachineCallResult<K extends MachineCallName> = ReturnType<MachineCalls[K]>;

/** Requests a call; answered by a {@link ReplyEvent} with the same id. */
export interface CallCommand {
  readonly kind: 'call';
  readonly id: number;
  readonly name: MachineCallName;
  readonly args: readonly unknown[];
}

/**
 * A result that the machine has later: once its vCPUs have stopped, or the guest has answered. Settles once; a run that
 * ends before that needs no settling. Machine thread only.
 */
export class Later<T> {
  #get: (() => T) | undefined;
  #listener: ((get: () => T) => void) | undefined;

  resolve(value: T): void {
    this.#settle(() => value);
  }

  reject(error: unknown): void {
    this.#settle(() => {
      throw error;
    });
  }

  /** Calls `listener` once, at once if it has settled. `get` returns the result or throws the error. */
  whenSettled(listener: (get: () => T) => void): void {
    if (this.#get !== undefined) listener(this.#get);
    else this.#listener = listener;
  }

  #settle(get: () => T): void {
    if (this.#get !== undefined) return;
    this.#get = get;
    this.#listener?.(get);
  }
}

/** What carries the calls out. A handler that cannot have its result yet returns a {@link Later}. */
export type MachineCallHandlers = {
  readonly [K in MachineCallName]: (
    ...args: MachineCallArgs<K>
  ) => MachineCallResult<K> | Later<MachineCallResult<K>>;
};

/** Carries out a call and emits its reply, now or when its result is there. Never throws: errors are the reply. */
export function answerCall(
  handlers: MachineCallHandlers,
  { id, name, args }: CallCommand,
  emit: (event: MachineEvent) => void,
): void {
  const reply = (get: () => unknown): void => {
    try {
      emit({ kind: 'reply', id, result: get() });
    } catch (error) {
      emit({ kind: 'reply', id, error: encodeError(error) });
    }
  };
  const handler = handlers[name] as (...args: readonly unknown[]) => unknown;
  let result: unknown;
  try {
    result = handler(...args);
  } catch (error) {
    reply(() => {
      throw error;
    });
    return;
  }
  if (result instanceof Later) result.whenSettled(reply);
  else reply(() => result);
}
