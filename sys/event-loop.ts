/**
 * The event thread's program: one epoll loop for the fds and timers of all tasks. @see event-thread.ts, its other side
 */
import type { MessagePort } from 'node:worker_threads';
import { Epoll } from './epoll.js';
import { type ErrorData, encodeError } from './error-data.js';
import { EventReplies } from './event-replies.js';
import type { EventContext, EventTaskHandlers, StartEventTask } from './event-task.js';
import { drainEventfd } from './eventfd.js';
import { importModule } from './foreign-module.js';
import { Inbox, InboxSender } from './inbox.js';
import { setThreadName } from './libc.js';
import { threadData } from './thread-ahead.js';
import { TimerQueue } from './timer-queue.js';

/** Data that starts the thread. */
export interface EventLoopData {
  readonly control: SharedArrayBuffer;
  /** Receives commands and sends replies. */
  readonly commands: MessagePort;
  /** Messages of tasks to their owners. */
  readonly notices: MessagePort;
  readonly noticeControl: SharedArrayBuffer;
  readonly wakeFd: number;
  /** @see EventReplies */
  readonly replies: SharedArrayBuffer;
}

/** Owner to event thread. */
export type EventCommand =
  | { readonly kind: 'run'; readonly task: number; readonly module: string; readonly data: unknown }
  | { readonly kind: 'post' | 'call'; readonly task: number; readonly message: unknown }
  | { readonly kind: 'stop'; readonly task: number };

/** Reply to `run`, `call` and `stop`. */
export type EventReply = { readonly value: unknown } | { readonly error: ErrorData };

/**
 * A task's message to its owner; `error` if the task threw in a callback. Without `task`: why the thread ended
 * unexpectedly.
 */
export type EventNotice =
  | { readonly task: number; readonly message: unknown }
  | { readonly task: number; readonly error: ErrorData }
  | { readonly error: ErrorData };

interface Running {
  readonly handlers: EventTaskHandlers;
  /** Its watches and timers. */
  readonly held: Set<Disposable>;
}

/** Makes JavaScript timers throw: they would never fire, because this thread does not return to Node's event loop. */
function refuseJavaScriptTimers(): void {
  for (const name of ['setTimeout', 'setInterval', 'setImmediate'] as const) {
    const refuse = (): never => {
      throw new Error(`${name}: JavaScript timers do not run in the event thread: use context.after`);
    };
    Object.defineProperty(globalThis, name, { value: refuse, writable: true, configurable: true });
  }
}

/** The owner may never return to its own event loop, where it would hear of the end of a worker. */
function announceEnd(replies: EventReplies, inbox: Inbox, owner: InboxSender, epoll: Epoll): void {
  let reason: ErrorData | undefined;
  process.on('uncaughtExceptionMonitor', (error) => {
    reason = encodeError(error);
  });
  process.on('exit', (code) => {
    replies.end();
    epoll[Symbol.dispose](); // libc's descriptors outlive the worker
    if (inbox.isStopping) return;
    const error = reason ?? encodeError(new Error(`a task called process.exit(${code})`));
    owner.send({ error } satisfies EventNotice);
  });
}

async function main(data: EventLoopData): Promise<void> {
  setThreadName('tsvisor-event');
  refuseJavaScriptTimers();
  const replies = new EventReplies(data.replies);
  const inbox = new Inbox(data.control);
  const owner = new InboxSender(data.notices, data.noticeControl);
  using epoll = Epoll.create();
  announceEnd(replies, inbox, owner, epoll);
  const tasks = new Map<number, Running>();
  const commands: EventCommand[] = [];
  const timers = new TimerQueue();
  inbox.addPort(data.commands, (command) => commands.push(command as EventCommand));
  epoll.watch(data.wakeFd, () => drainEventfd(data.wakeFd));

  async function run(task: number, module: string, taskData: unknown): Promise<void> {
    const { start } = (await importModule(module)) as { start?: StartEventTask };
    if (start === undefined) throw new Error(`${module} has no export named start`);
    const held = new Set<Disposable>();
    const guarded = (ready: () => void) => () => {
      try {
        ready();
      } catch (error) {
        owner.send({ task, error: encodeError(error) } satisfies EventNotice);
      }
    };
    const keep = (watch: Disposable): Disposable => {
      held.add(watch);
      return {
        [Symbol.dispose]() {
          held.delete(watch);
          watch[Symbol.dispose]();
        },
      };
    };
    const context: EventContext = {
      watch: (fd, ready, isEdge) => keep(epoll.watch(fd, guarded(ready), isEdge)),
      watchWritable: (fd, ready) => keep(epoll.watchWritable(fd, guarded(ready))),
      after: (ms, callback) => {
        const timer = timers.after(ms, () => {
          held.delete(timer);
          guarded(callback)();
        });
        return keep(timer);
      },
      notify: (message) => owner.send({ task, message } satisfies EventNotice),
    };
    try {
      tasks.set(task, { handlers: start(taskData, context), held });
    } catch (error) {
      for (const each of held) each[Symbol.dispose]();
      throw error;
    }
  }

  function stop(task: number): void {
    const running = tasks.get(task);
    tasks.delete(task);
    try {
      running?.handlers.stop();
    } finally {
      for (const each of running?.held ?? []) each[Symbol.dispose]();
    }
  }

  async function obey(command: EventCommand): Promise<unknown> {
    switch (command.kind) {
      case 'run':
        return run(command.task, command.module, command.data);
      case 'stop':
        return stop(command.task);
      default:
        return tasks.get(command.task)?.handlers.message(command.message);
    }
  }

  async function reply(command: EventCommand): Promise<void> {
    let answer: EventReply;
    try {
      answer = { value: await obey(command) };
    } catch (error) {
      answer = { error: encodeError(error) };
    }
    if (command.kind !== 'post') {
      data.commands.postMessage(answer);
      replies.answer();
    } else if ('error' in answer) {
      owner.send({ task: command.task, error: answer.error } satisfies EventNotice);
    }
  }

  while (!inbox.isStopping) {
    epoll.wait(timers.timeout());
    timers.run();
    if (inbox.hasNews) inbox.drain();
    for (let command = commands.shift(); command !== undefined; command = commands.shift())
      await reply(command);
  }
  for (const task of [...tasks.keys()]) stop(task);
}

await main(threadData as EventLoopData);
process.exit(0);
