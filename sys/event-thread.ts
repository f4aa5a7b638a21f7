import {
  MessageChannel,
  type MessagePort,
  receiveMessageOnPort,
  type Transferable,
  type Worker,
} from 'node:worker_threads';
import { decodeError } from './error-data.js';
import type { EventCommand, EventLoopData, EventNotice, EventReply } from './event-loop.js';
import { createEventReplies, EventReplies } from './event-replies.js';
import type { EventTask, EventThread } from './event-task.js';
import { signalAtExit } from './exit-board.js';
import { Fd } from './fd.js';
import { createInboxControl, type Inbox, InboxBell, InboxSender } from './inbox.js';
import { Scope } from './scope.js';
import { startWorker } from './start-worker.js';

/** Connects the machine thread to the event thread. Transfer its ports along with it. */
export interface EventThreadLink {
  readonly control: SharedArrayBuffer;
  readonly commands: MessagePort;
  readonly notices: MessagePort;
  readonly replies: SharedArrayBuffer;
}

/** The main thread's handle of the event thread, which it starts and stops. */
export interface EventThreadWorker {
  readonly link: EventThreadLink;
  readonly worker: Worker;
  /** Requests its end; memory and fds that it uses may be freed once `ended` resolves. */
  stop(): void;
  readonly ended: Promise<void>;
  /** Closes its eventfd, as `ended` does: for a thread that is known to have ended, by an owner that hears of no promise. */
  close(): void;
}

/**
 * Starts an event thread. `ended` settles in the event loop of the thread that calls this.
 * @param noticeControl control words of the inbox that tasks' messages wake
 * @throws SysError EAGAIN if the host refuses another thread; EMFILE
 */
export function startEventThread(noticeControl: SharedArrayBuffer): EventThreadWorker {
  using scope = new Scope(); // the host may refuse another thread
  const wake = scope.own(Fd.eventfd('event thread wake-up'));
  const control = createInboxControl(wake.number);
  const replies = createEventReplies();
  const commands = new MessageChannel();
  const notices = new MessageChannel();
  const data: EventLoopData = {
    control,
    commands: commands.port1,
    notices: notices.port1,
    noticeControl,
    wakeFd: wake.number,
    replies,
  };
  const { worker, ended: workerEnded } = startWorker({
    module: 'sys/event-loop.js',
    name: 'tsvisor-event',
    data,
    transfer: [commands.port1, notices.port1],
  });
  const bell = new InboxBell(control);
  // Its owner may be a worker that cannot stop it when the process exits.
  const atExit = signalAtExit(wake.number);
  const close = () => {
    if (!wake.isOpen) return;
    atExit[Symbol.dispose]();
    wake[Symbol.dispose]();
  };
  const ended = workerEnded.finally(() => {
    new EventReplies(replies).end();
    close();
  });
  scope.move();
  return {
    link: { control, commands: commands.port2, notices: notices.port2, replies },
    worker,
    stop: () => {
      if (wake.isOpen) bell.stop();
    },
    ended,
    close,
  };
}

class Task implements EventTask {
  readonly #client: EventThreadClient;
  readonly #id: number;
  receive: ((message: unknown) => void) | undefined;
  #isRunning = true;

  constructor(client: EventThreadClient, id: number) {
    this.#client = client;
    this.#id = id;
  }

  post(message: unknown, transfer: readonly Transferable[] = []): void {
    this.#client.send({ kind: 'post', task: this.#id, message }, transfer);
  }

  call(message: unknown): unknown {
    return this.#client.request({ kind: 'call', task: this.#id, message });
  }

  [Symbol.dispose](): void {
    if (!this.#isRunning) return;
    this.#isRunning = false;
    this.#client.forget(this.#id);
    this.#client.stop(this.#id);
  }
}

/** The machine thread's side. Its calls block until the event thread has replied. */
export class EventThreadClient implements EventThread {
  readonly #link: EventThreadLink;
  readonly #inbox: Inbox;
  readonly #delivery: Disposable;
  readonly #sender: InboxSender;
  readonly #replies: EventReplies;
  readonly #tasks = new Map<number, Task>();
  #lastTask = 0;
  #answered = 0;

  constructor(link: EventThreadLink, inbox: Inbox) {
    this.#link = link;
    this.#inbox = inbox;
    this.#sender = new InboxSender(link.commands, link.control);
    this.#replies = new EventReplies(link.replies);
    this.#delivery = inbox.addPort(link.notices, (message) => this.#deliver(message as EventNotice));
  }

  run(module: URL, data: unknown, thread: 'shared' | 'own' = 'shared'): EventTask {
    if (thread === 'own') return runAlone(module, data, this.#inbox);
    const id = ++this.#lastTask;
    const task = new Task(this, id);
    this.#tasks.set(id, task);
    try {
      this.request({ kind: 'run', task: id, module: module.href, data });
    } catch (error) {
      this.#tasks.delete(id);
      throw error;
    }
    return task;
  }

  /** Sends, if the thread is still there: its wake-up eventfd may be another file's number by now. */
  send(command: EventCommand, transfer: readonly Transferable[] = []): void {
    if (!this.#replies.hasEnded) this.#sender.send(command, transfer);
  }

  /**
   * Sends a command and waits for the reply. There is one request at a time, so the next reply is its own.
   * @throws Error with what the task threw, or because the thread has ended
   */
  request(command: EventCommand): unknown {
    const reply = this.#replies.hasEnded ? undefined : this.#ask(command);
    if (reply === undefined) throw new Error('event thread: it has ended');
    if ('error' in reply) throw decodeError(reply.error, 'event thread: ');
    return reply.value;
  }

  /** Undefined if the thread ends instead of answering. */
  #ask(command: EventCommand): EventReply | undefined {
    this.send(command);
    this.#replies.wait(this.#answered++);
    return receiveMessageOnPort(this.#link.commands)?.message;
  }

  /** Ends a task, and returns when it has ended: as all have when their thread has. @throws what its `stop` throws */
  stop(task: number): void {
    try {
      this.request({ kind: 'stop', task });
    } catch (error) {
      if (!this.#replies.hasEnded) throw error;
    }
  }

  forget(task: number): void {
    this.#tasks.delete(task);
  }

  /** Blocks until the thread, which has been asked to, has ended all tasks. */
  awaitEnd(): void {
    while (!this.#replies.hasEnded) this.#replies.wait(this.#answered++);
    this.#delivery[Symbol.dispose]();
  }

  #deliver(notice: EventNotice): void {
    if (!('task' in notice)) throw decodeError(notice.error, 'event thread: it has ended: ');
    if ('error' in notice) throw decodeError(notice.error, `event thread, task ${notice.task}: `);
    this.#tasks.get(notice.task)?.receive?.(notice.message);
  }
}

/** Runs a task in a thread that ends with it. Any thread, which may never return to its event loop. */
function runAlone(module: URL, data: unknown, inbox: Inbox): EventTask {
  const thread = startEventThread(inbox.control);
  thread.ended.catch(() => {}); // calls report it
  const client = new EventThreadClient(thread.link, inbox);
  const end = () => {
    thread.stop();
    client.awaitEnd();
    thread.close();
  };
  try {
    const task = client.run(module, data);
    let isRunning = true;
    return {
      post: (message, transfer) => task.post(message, transfer),
      call: (message) => task.call(message),
      get receive() {
        return task.receive;
      },
      set receive(handler) {
        task.receive = handler;
      },
      [Symbol.dispose]() {
        if (!isRunning) return;
        isRunning = false;
        try {
          task[Symbol.dispose]();
        } finally {
          end();
        }
      },
    };
  } catch (error) {
    end();
    throw error;
  }
}
