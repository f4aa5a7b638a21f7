import { expect, test } from 'vitest';
import { Epoll } from '../../sys/epoll.js';
import { drainEventfd, signalEventfd } from '../../sys/eventfd.js';
import { Fd } from '../../sys/fd.js';
import { start } from './signal-task.js';

test('each signal is told once, without a read: another process may have the eventfd, and block whoever reads', () => {
  using epoll = Epoll.create();
  using fd = Fd.eventfd('shared');
  const told: unknown[] = [];
  const task = start(undefined, {
    watch: (number, ready, isEdge) => epoll.watch(number, ready, isEdge),
    watchWritable: (number, ready) => epoll.watchWritable(number, ready),
    after: () => expect.unreachable('the task has no timers'),
    notify: (token) => told.push(token),
  });
  task.message({ kind: 'watch', token: 7, fd: fd.number });
  epoll.wait(0);
  expect(told).toEqual([]);
  signalEventfd(fd.number);
  for (let i = 0; i < 3; i++) epoll.wait(0);
  expect(told).toEqual([7]);
  signalEventfd(fd.number);
  epoll.wait(0);
  expect(told).toEqual([7, 7]);
  expect(drainEventfd(fd.number)).toBe(2n);
  task.message({ kind: 'unwatch', token: 7 });
  signalEventfd(fd.number);
  epoll.wait(0);
  task.stop();
  expect(told).toEqual([7, 7]);
});
