/** In the event thread: tells the machine thread when a server sends something unasked, or is gone. */
import type { EventContext, EventTaskHandlers } from '../../../sys/event-task.js';
import { hasNews } from './connection.js';

export function start(data: unknown, context: EventContext): EventTaskHandlers {
  const { fd } = data as { readonly fd: number };
  // Answers wake this thread, too; whoever waits for one has read it by the time this one looks.
  const watch = context.watch(
    fd,
    () => {
      if (hasNews(fd)) context.notify('news');
    },
    true,
  );
  return { message: () => undefined, stop: () => watch[Symbol.dispose]() };
}
