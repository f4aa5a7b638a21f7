/** The event task of a disk: its queue and its image. It blocks now and then, and so has a thread of its own. */
import { sysErrorParts } from '../../sys/error-data.js';
import type { StartEventTask } from '../../sys/event-task.js';
import { Scope } from '../../sys/scope.js';
import { WrittenPages } from '../../vfio/written-pages.js';
import type { DiskImage } from '../block/disk-image.js';
import { BlockingIo, type FileIo, RingIo } from '../block/file-io.js';
import { openImage } from '../block/open-image.js';
import { InterruptSignals } from '../virtio/interrupt-signals.js';
import type { PausedQueues } from '../virtio/messages.js';
import type { DiskCommand, DiskTaskData, OpenImageReply } from './messages.js';
import { QueuePath } from './queue-path.js';
import { SharedState } from './shared-state.js';
import { REQUESTQ } from './spec.js';

/** The task with another kind of I/O, for tests. */
export const startWith =
  (openIo: () => FileIo): StartEventTask =>
  (data, context) => {
    const { shared, doorbell, serial } = data as DiskTaskData;
    const state = new SharedState(shared);
    const signals = new InterruptSignals(state, context);
    let path: QueuePath | undefined;

    function open(image: DiskImage): OpenImageReply {
      using scope = new Scope();
      try {
        const io = scope.own(openIo());
        const disk = scope.own(openImage(image, io));
        path = new QueuePath(disk, { state, signals, context, doorbell, serial, io });
        scope.move();
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
        case 'log':
          return path?.log(command.log && new WrittenPages(command.log));
        case 'detach':
          return path?.detach();
        case 'start':
          return path?.start(command.queue, command.hasFlush, command.epoch, command.position);
        case 'stop':
          signals.reset();
          return path?.stop();
        case 'drain':
          return path?.drain();
        case 'pause': {
          const positions = path?.pause() ?? new Map();
          return { positions, pending: signals.pause() } satisfies PausedQueues;
        }
        case 'resume':
          return signals.resume(command.pending);
        case 'interrupts':
          return signals.retarget(command.targets);
        case 'maskIntx':
          return signals.maskIntx(command.isMasked);
        case 'command':
          signals.obeyCommand();
          return path?.pump();
        case 'begin':
          return path?.beginRemote(command.request);
        case 'takeDone':
          return path?.takeDone() ?? [];
        case 'used':
          return signals.queue(REQUESTQ);
        case 'endTurn':
          return path?.endTurn(command.hasMore);
        case 'giveUp':
          return path?.giveUpRemote();
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

export const start: StartEventTask = startWith(() => RingIo.open() ?? new BlockingIo());
