/** Several queue pairs with the real tun driver, in a network namespace: this file runs itself again in one. */
import { execFileSync } from 'node:child_process';
import { closeSync, constants, openSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import * as libc from '../../sys/libc.js';
import { icmpEcho } from '../net/testing/frames.js';
import { isInNamespace, runInNamespace } from '../net/testing/namespace.js';
import { PairedDriver } from './testing/paired-driver.js';
import { Workbench } from './testing/workbench.js';

const HOST = '10.9.0.1';
const OK = 0;
const ERR = 1;
const RX = 0x18_0000;
const RX_BYTES = 2048;
const BUFFERS = 16;
const IFF_MULTI_QUEUE = 0x0100;

const ip = (...words: string[]) => execFileSync('ip', words, { encoding: 'utf8', stdio: 'pipe' });

/** Queues of an interface that are attached, as the host's stack sees them. */
function queuesOf(name: string): number {
  const [, attached = ''] = /numqueues (\d+)/.exec(ip('-details', 'link', 'show', 'dev', name)) ?? [];
  return Number(attached);
}

function guestOf(options: Record<string, string>) {
  const bench = new Workbench({ queues: '2', mac: '52:54:00:12:34:56', ...options });
  const guest = new PairedDriver(bench.driver);
  const setPairs = (pairs: number): number => {
    const read = guest.setPairs(pairs);
    bench.thread.pump();
    return read();
  };
  /** The pair that receives the reply to a ping; the kernel sends other frames unasked. */
  const replied = (id: number): number | undefined => {
    for (let i = 0; i < 300; i++) {
      bench.thread.pump();
      for (const pair of [0, 1]) {
        // Buffers are offered once each, in order.
        const at = (index: number) => RX + RX_BYTES * (BUFFERS * pair + index);
        const frames = guest.rx[pair]?.reap().map((used) => bench.driver.frame(at(used.id), used)) ?? [];
        if (frames.some(isEchoReply(id))) return pair;
      }
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5);
    }
    return undefined;
  };
  /** Pings by a pair until the reply comes by it, twice at most: the kernel notes a flow's queue behind its first packet. */
  const pings = (pair: number, id: number, to: string): number | undefined => {
    const frame = icmpEcho(new Uint8Array(56).fill(id), { source: '10.9.0.2', destination: HOST, to });
    guest.send(pair, frame);
    const first = replied(id);
    if (first === undefined || first === pair) return first;
    guest.send(pair, frame);
    return replied(id);
  };
  const start = () => {
    guest.start();
    for (const pair of [0, 1])
      for (let i = 0; i < BUFFERS; i++) guest.provide(pair, RX + RX_BYTES * (BUFFERS * pair + i));
    bench.thread.pump();
  };
  return { bench, guest, setPairs, replied, pings, start, [Symbol.dispose]: () => bench[Symbol.dispose]() };
}

function up(name: string): string {
  ip('address', 'add', `${HOST}/24`, 'dev', name);
  ip('link', 'set', name, 'up');
  ip('neighbour', 'replace', '10.9.0.2', 'lladdr', '52:54:00:12:34:56', 'dev', name);
  const [, mac = ''] = /link\/ether (\S+)/.exec(ip('link', 'show', 'dev', name)) ?? [];
  return mac;
}

const isEchoReply = (id: number) => (frame: Uint8Array) =>
  frame[12] === 8 && frame[13] === 0 && frame[23] === 1 && frame[34] === 0 && frame[42] === id;

function realDriver(): void {
  test('a flow comes back by the queue that it is sent by, and by the first one once the others are detached', () => {
    using device = guestOf({ net: 'tap:tsq0' });
    const { bench, guest, setPairs, replied, pings, start } = device;
    const to = up('tsq0');
    start();
    expect(queuesOf('tsq0')).toBe(1);
    expect(setPairs(2)).toBe(OK);
    expect(queuesOf('tsq0')).toBe(2);
    for (const pair of [1, 0, 1]) expect(pings(pair, 10 + pair, to)).toBe(pair);
    expect(setPairs(1)).toBe(OK);
    expect(queuesOf('tsq0')).toBe(1);
    const dropped = bench.instance.counters().txDropped;
    const ping = icmpEcho(new Uint8Array(56).fill(21), { source: '10.9.0.2', destination: HOST, to });
    guest.send(1, ping);
    bench.thread.pump();
    expect(bench.instance.counters().txDropped).toBe(dropped + 1);
    guest.send(0, ping);
    expect(replied(21)).toBe(0);
    bench.driver.status = 0;
    start();
    expect(setPairs(2)).toBe(OK);
    expect(pings(1, 30, to)).toBe(1);
  });

  test('an interface that is gone refuses another pair, and its link is down', () => {
    using device = guestOf({ net: 'tap:tsq1' });
    const { bench, setPairs, start } = device;
    up('tsq1');
    start();
    ip('link', 'delete', 'tsq1');
    expect(setPairs(2)).toBe(ERR);
    bench.thread.pump();
    expect(bench.driver.deviceConfig(6, 2)).toBe(0);
  });

  test('an interface of one queue is refused, one of several is taken, and kept', () => {
    ip('tuntap', 'add', 'dev', 'tsq2', 'mode', 'tap');
    expect(() => guestOf({ net: 'tap:tsq2' })).toThrow(
      expect.objectContaining({ code: 'EINVAL', hint: expect.stringContaining('multi_queue') }),
    );
    ip('link', 'delete', 'tsq2');
    ip('tuntap', 'add', 'dev', 'tsq2', 'mode', 'tap', 'multi_queue');
    for (let turn = 0; turn < 2; turn++) {
      using device = guestOf({ net: 'tap:tsq2' });
      device.start();
      expect(device.setPairs(2)).toBe(OK);
    }
    ip('link', 'delete', 'tsq2');
  });

  /** As a broker would: opens a queue of an interface. */
  function opened(name: string, flags: number): number {
    const fd = openSync('/dev/net/tun', constants.O_RDWR);
    const ifreq = new Uint8Array(40);
    ifreq.set(Buffer.from(name));
    new DataView(ifreq.buffer).setUint16(16, flags, true);
    expect(libc.ioctlPtr(fd, 0x4004_54ca, ifreq)).toBe(0);
    return fd;
  }

  test('descriptors of queues carry frames, and are attached as before once the device is gone', () => {
    const fds = [0, 1].map(() => opened('tsq3', 0x5002 | IFF_MULTI_QUEUE));
    const net = `tap:fd=${fds.join(':')}`;
    const to = up('tsq3');
    for (let turn = 0; turn < 2; turn++) {
      using device = guestOf({ net });
      device.start();
      expect(() => guestOf({ net })).toThrow(expect.objectContaining({ code: 'EBUSY' }));
      expect(device.setPairs(2)).toBe(OK);
      expect(device.pings(1, 40, to)).toBe(1);
    }
    expect(queuesOf('tsq3')).toBe(2);
    const other = opened('tsq4', 0x5002 | IFF_MULTI_QUEUE);
    expect(() => guestOf({ net: `tap:fd=${fds[0]}:${other}` })).toThrow(
      expect.objectContaining({ code: 'EINVAL', hint: expect.stringContaining('a queue of tsq4') }),
    );
    for (const fd of [...fds, other]) closeSync(fd);
  });

  test('pairs come and go while frames do, and each of these has its reply', () => {
    using device = guestOf({ net: 'tap:tsq5' });
    const { guest, setPairs, replied, start } = device;
    const to = up('tsq5');
    start();
    for (let round = 0; round < 8; round++) {
      expect(setPairs(1 + (round % 2))).toBe(OK);
      guest.send(0, icmpEcho(new Uint8Array(56).fill(round), { source: '10.9.0.2', destination: HOST, to }));
      expect(replied(round)).toBeDefined();
    }
  });
}

if (isInNamespace()) describe('with the real driver', realDriver);
else {
  test('queue pairs work with the real driver', (context) => {
    runInNamespace(context, fileURLToPath(import.meta.url));
  });
}
