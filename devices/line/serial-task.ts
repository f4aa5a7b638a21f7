/** The event task of a machine's serial ports: their host's ends, which stay open when the machine restarts. */
import type { StartEventTask } from '../../sys/event-task.js';
import { Scope } from '../../sys/scope.js';
import { hostFile } from './host-file.js';
import { HostLine } from './host-line.js';
import type { HostEndNumbers, LineBuffers } from './messages.js';

/** A port's line to its end. */
export interface SerialLine {
  /** Name of the port in messages: `COM2`. */
  readonly name: string;
  readonly end: HostEndNumbers;
  readonly buffers: LineBuffers;
}

/** Data that starts the task. */
export interface SerialTaskData {
  readonly lines: readonly SerialLine[];
  /** Signalled when the registers have written bytes that a line waits for, or made room; outlives the task. */
  readonly doorbell: number;
}

/** Notice of the task: bytes or room of the lines may have changed; `text` is a message of that port for the user. */
export interface SerialNotice {
  readonly name: string;
  readonly text?: string;
}

export const start: StartEventTask = (data, context) => {
  const { lines: rows, doorbell } = data as SerialTaskData;
  using scope = new Scope();
  const lines = rows.map(({ name, end, buffers }) => {
    const notify = (text?: string): void => {
      const notice: SerialNotice = text === undefined ? { name } : { name, text };
      context.notify(notice);
    };
    return scope.own(new HostLine(hostFile(end), buffers, context, notify));
  });
  const pump = () => {
    for (const line of lines) line.pump();
  };
  scope.own(context.watch(doorbell, pump, true));
  const owned = scope.move();
  return { message() {}, stop: () => owned[Symbol.dispose]() };
};
