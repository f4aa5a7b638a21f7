import type { StartEventTask } from '../event-task.js';

interface EchoData {
  readonly fd?: number;
  readonly fail?: boolean;
}

/** An event task for tests: echoes calls and counts the signals of an eventfd. */
export const start: StartEventTask = (data, context) => {
  const { fd, fail } = data as EchoData;
  let rung = 0;
  if (fd !== undefined) {
    context.watch(
      fd,
      () => {
        if (fail) throw new Error('failure on the data path');
        context.notify({ rung: ++rung });
      },
      true,
    );
  }
  return {
    message(message) {
      if (message === 'exit') process.exit(3);
      if (message === 'crash') {
        queueMicrotask(() => {
          throw new Error('told to crash');
        });
        return new Promise(() => {}); // an answer would race with the end of the thread
      }
      if (message === 'throw') throw new Error('told to throw');
      return message;
    },
    stop() {},
  };
};
