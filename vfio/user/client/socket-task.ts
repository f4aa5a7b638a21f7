/** Event-thread task: notifies the machine thread when a server sends a request or disconnects. */
import type { EventContext, EventTaskHandlers } from '../../../sys/event-task.js';
import { hasNews } from './connection.js';

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
  return { message: () => undefined, stop: () => watch[Symbol.dispose]() };
}
