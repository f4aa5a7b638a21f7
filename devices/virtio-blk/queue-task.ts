/** The event task of a disk: its queue and its image. It blocks, and so has a thread of its own. */
import { sysErrorParts } from '../../sys/error-data.js';
import type { StartEventTask } from '../../sys/event-task.js';
import type { DiskImage } from '../block/disk-image.js';
import { openImage } from '../block/open-image.js';
import { InterruptSignals } from '../virtio/interrupt-signals.js';
import type { DiskCommand, DiskTaskData, OpenImageReply } from './messages.js';
import { QueuePath } from './queue-path.js';
import { SharedState } from './shared-state.js';

export const start: StartEventTask = (data, context) => {
  const { shared, doorbell, serial } = data as DiskTaskData;
  const state = new SharedState(shared);
  const signals = new InterruptSignals(state, context);
  let path: QueuePath | undefined;

  function open(image: DiskImage): OpenImageReply {
    try {
      const disk = openImage(image);
      path = new QueuePath(disk, { state, signals, context, doorbell, serial });
      const { bytes, isReadOnly, discardBytes } = disk;
      return { disk: { bytes, isReadOnly, discardBytes } };
    } catch (error) {
      return { error: sysErrorParts(error) };
    }
  }

  function obey(command: DiskCommand): unknown {
    switch (command.kind) {
      case 'openImage':
        return open(command.image);
      case 'attach':
        return path?.attach(command.table);
      case 'detach':
        return path?.detach();
      case 'start':
        return path?.start(command.queue, command.hasFlush);
      case 'stop':
        signals.reset();
        return path?.stop();
      case 'interrupts':
        return signals.retarget(command.targets);
      case 'maskIntx':
        return signals.maskIntx(command.isMasked);
      case 'command':
        signals.obeyCommand();
        return path?.pump();
    }
  }

  return {
    message: (message) => obey(message as DiskCommand),
    stop() {
      path?.[Symbol.dispose]();
      signals[Symbol.dispose]();
    },
  };
};
