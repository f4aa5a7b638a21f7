/** Event-thread task: notifies the machine thread when a server sends a request or disconnects. */
import type { EventContext, EventTaskHandlers } from '../../../sys/event-task.js';
import { hasNews } from './connection.js';

/**
 * Any message to this task is sent back as news: the machine thread has received more than it serves at a time, or than
 * it waited for. The watch does not report that: it has one event per arrival, and nothing more may arrive.
 */
export function start(data: unknown, context: EventContext): EventTaskHandlers {
  const { fd } = data as { readonly fd: number };
  // Replies wake this thread, too; by the time it polls, the machine thread has read them.
  const watch = context.watch(
    fd,
    () => {
      if (hasNews(fd)) context.notify('news');
    },
    true,
  );
  return { message: () => context.notify('news'), stop: () => watch[Symbol.dispose]() };
}
