/** The tasks of the event thread, in this thread: what they watch, and what they say. */
import { expect, test } from 'vitest';
import type { EventContext } from '../../../sys/event-task.js';
import { Mapping, PROT_READ, PROT_WRITE } from '../../../sys/mapping.js';
import { Scope } from '../../../sys/scope.js';
import { unixSocketPair } from '../../../sys/unix-socket.js';
import { createDmaTable, DmaTableWriter } from '../../dma-table.js';
import { Channel } from '../channel.js';
import { encodeCommand } from '../message.js';
import {
  VFIO_USER_DMA_READ as DMA_READ,
  VFIO_USER_DMA_WRITE as DMA_WRITE,
  FLAG_NO_REPLY,
} from '../protocol.js';
import { bytes } from '../testing/peers/session.js';
import { start as startSocket } from './socket-task.js';
import { start as startTwin } from './twin-task.js';

/** An event thread in which nothing happens until `go` is called. */
function events() {
  const watches: { readonly what: string; readonly fd: number; readonly go: () => void; isOn: boolean }[] =
    [];
  const notices: unknown[] = [];
  const add = (what: string, fd: number, go: () => void) => {
    const watch = { what, fd, go, isOn: true };
    watches.push(watch);
    return {
      [Symbol.dispose]: () => {
        watch.isOn = false;
      },
    };
  };
  const context: EventContext = {
    watch: (fd, ready) => add('read', fd, ready),
    watchWritable: (fd, ready) => add('write', fd, ready),
    after: (ms, callback) => add(`after ${ms}`, -1, callback),
    notify: (message) => void notices.push(message),
  };
  const on = () => watches.filter(({ isOn }) => isOn);
  return { context, notices, on, what: () => on().map(({ what }) => what), go: () => on()[0]?.go() };
}

test('the machine thread is told of what a server sends, or of its end, unless it has read it already', () => {
  using scope = new Scope();
  const [near, far] = unixSocketPair('socket');
  scope.own(near);
  const server = scope.own(new Channel(far));
  const { context, notices, on, go } = events();
  const task = startSocket({ fd: near.number }, context);
  expect(on()).toMatchObject([{ what: 'read', fd: near.number }]);
  go();
  expect(notices).toEqual([]);
  server.send(encodeCommand(1, DMA_READ));
  go();
  expect(notices).toEqual(['news']);
  task.message('backlog');
  expect(notices).toEqual(['news', 'news']);
  task.stop();
  expect(on()).toEqual([]);
});

function twin(scope: Scope) {
  const [near, far] = unixSocketPair('twin');
  scope.own(near);
  const server = scope.own(new Channel(far));
  server.setTimeouts(1000, 1000);
  const table = new DmaTableWriter(createDmaTable(4));
  const memory = scope.own(Mapping.anonymous(4096));
  const prot = PROT_READ | PROT_WRITE;
  table.replace([{ iova: 0, bytes: 4096, address: Number(memory.hva), prot }]);
  const thread = events();
  const task = startTwin({ fd: near.number, table: table.buffer }, thread.context);
  return { server, memory, task, ...thread };
}

test('other tasks get their turn after 64 requests, and each watch is the only one', () => {
  using scope = new Scope();
  const { server, task, what, go } = twin(scope);
  expect(what()).toEqual(['read']);
  for (let id = 1; id <= 100; id++) server.send(encodeCommand(id, DMA_READ, bytes(0n, 1n)));
  go();
  expect(what()).toEqual(['after 0']);
  go();
  expect(what()).toEqual(['read']);
  const ids = Array.from({ length: 100 }, () => server.receive(false)?.id);
  expect(ids).toEqual(Array.from({ length: 100 }, (_, i) => i + 1));
  expect(server.receive(false)).toBeUndefined();
  task.stop();
  expect(what()).toEqual([]);
});

test('a request that wants no reply is served without one, also if it fails', () => {
  using scope = new Scope();
  const { server, memory, task, go } = twin(scope);
  server.send(encodeCommand(1, DMA_WRITE, bytes(8n, 1n, [7]), FLAG_NO_REPLY));
  server.send(encodeCommand(2, DMA_WRITE, bytes(4096n, 1n, [7]), FLAG_NO_REPLY));
  server.send(encodeCommand(3, DMA_READ, bytes(8n, 1n)));
  go();
  const reply = server.receive(false);
  expect([reply?.id, ...(reply?.payload ?? [])]).toEqual([3, ...bytes(8n, 1n, [7])]);
  expect(server.receive(false)).toBeUndefined();
  expect(memory.view.slice(7, 3)).toEqual(Uint8Array.of(0, 7, 0));
  task.stop();
});
