/** The event task of an mtty card: the host's ends of its ports, and the unmasking of its pin. */
import { sysErrorParts } from '../../sys/error-data.js';
import type { EventContext, StartEventTask } from '../../sys/event-task.js';
import { Scope } from '../../sys/scope.js';
import { openHostEnd } from '../line/host-end.js';
import { hostFile } from '../line/host-file.js';
import { HostLine } from '../line/host-line.js';
import type { HostEnd, LineBuffers } from '../line/messages.js';
import { IntxPin } from '../mdev/intx-pin.js';
import { IntxUnmask } from '../mdev/intx-unmask.js';
import type { LineCommand, LineNotice, LineTaskData, OpenLineReply } from './messages.js';

function openLine(
  port: number,
  end: HostEnd,
  buffers: LineBuffers,
  context: EventContext,
): Disposable & { readonly line: HostLine; readonly address: string } {
  using scope = new Scope();
  const { numbers } = scope.own(openHostEnd(end));
  const notify = (text?: string): void => {
    const notice: LineNotice = text === undefined ? {} : { text: `port ${port}: ${text}` };
    context.notify(notice);
  };
  const line = scope.own(new HostLine(hostFile(numbers), buffers, context, notify));
  const owned = scope.move();
  return { line, address: numbers.address, [Symbol.dispose]: () => owned[Symbol.dispose]() };
}

export const start: StartEventTask = (data, context) => {
  const { pin: pinBuffer, lines: buffers, doorbell } = data as LineTaskData;
  const lines: (Disposable & { readonly line: HostLine })[] = [];
  const unmask = new IntxUnmask(new IntxPin(pinBuffer), context);
  context.watch(
    doorbell,
    () => {
      for (const { line } of lines) line.pump();
    },
    true,
  );

  function open(port: number, end: HostEnd): OpenLineReply {
    try {
      const opened = openLine(port, end, buffers[port] as LineBuffers, context);
      lines.push(opened);
      return { address: opened.address };
    } catch (error) {
      return { error: sysErrorParts(error) };
    }
  }

  return {
    message(message) {
      const command = message as LineCommand;
      return command.kind === 'openLine' ? open(command.port, command.end) : unmask.by(command.fd);
    },
    stop() {
      for (const line of lines) line[Symbol.dispose]();
      unmask[Symbol.dispose]();
    },
  };
};
