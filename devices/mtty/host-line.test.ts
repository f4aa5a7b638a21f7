import { constants, mkdtempSync, readSync, rmSync, writeSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { Fd } from '../../sys/fd.js';
import { trace } from '../../sys/trace.js';
import { recordTrace } from '../testing/fake-ports.js';
import { taken } from '../virtio-net/testing/workbench.js';
import { Card } from './testing/card.js';
import { until } from './testing/until.js';

const [IER, FCR, LSR, MSR] = [1, 2, 5, 6] as const;
const ONLINE = 0xb0;

const text = (bytes: readonly number[]): string => Buffer.from(bytes).toString('latin1');

/** The terminal that a port was given. */
function ptyPath(steps: { readonly events: readonly { readonly text?: string }[] }): string {
  const said = steps.events.map((event) => String(event.text));
  const path = said.map((line) => /^port 0 is (\/dev\/pts\/\d+)$/.exec(line)?.[1]).find(Boolean);
  if (path === undefined) throw new Error(`no path in ${said.join('; ')}`);
  return path;
}

const attach = (path: string): Fd =>
  Fd.open(path, constants.O_RDWR | constants.O_NOCTTY | constants.O_NONBLOCK);

function readSome(fd: Fd): string {
  const buffer = Buffer.alloc(65536);
  try {
    return buffer.toString('latin1', 0, readSync(fd.number, buffer));
  } catch {
    return '';
  }
}

test('a person who opens the terminal talks to the guest; the modem lines say who is there', async () => {
  using steps = recordTrace(trace.vfio);
  using card = new Card({ port0: 'pty' });
  const path = ptyPath(steps);
  card.outb(0, FCR, 1);
  expect(card.inb(0, MSR) & ONLINE).toBe(0);
  card.send(0, Buffer.from('to nobody'));
  card.thread.pump();
  const hears = async (terminal: Fd, words: string) => {
    let heard = '';
    await until(() => {
      card.thread.pump();
      heard += readSome(terminal);
      return heard === words;
    });
  };
  {
    using terminal = attach(path);
    card.thread.pump();
    expect(card.inb(0, MSR)).toBe(ONLINE | 0x0b);
    card.send(0, Buffer.from('login:\r\n'));
    await hears(terminal, 'login:\r\n');
    writeSync(terminal.number, 'root\r');
    let got = '';
    await until(() => {
      card.thread.pump();
      got += text(card.drain(0));
      return got === 'root\r';
    });
  }
  await until(() => {
    card.thread.pump();
    return (card.inb(0, MSR) & ONLINE) === 0;
  });
  using again = attach(path);
  card.thread.pump();
  card.send(0, Buffer.from('back'));
  await hears(again, 'back');
  const said = steps.events.map((event) => event.text ?? '');
  expect(said).toEqual([
    `port 0 is ${path}`,
    `port 0: ${path} was opened`,
    `port 0: ${path} was closed`,
    `port 0: ${path} was opened`,
  ]);
});

const DATA = Buffer.from(Array.from({ length: 200_000 }, (_, i) => 32 + (i % 95)));

test('a terminal that nobody reads stops the guest in order, and nothing is lost when it is read again', async () => {
  using steps = recordTrace(trace.vfio);
  using card = new Card({ port0: 'pty' });
  using terminal = attach(ptyPath(steps));
  card.thread.pump();
  card.outb(0, FCR, 1);
  let sent = 0;
  const go = () => {
    sent += card.send(0, DATA.subarray(sent));
    card.thread.pump();
  };
  let idle = 0;
  await until(() => {
    const before = sent;
    go();
    idle = sent === before ? idle + 1 : 0;
    return idle > 20;
  });
  expect([card.inb(0, LSR), card.inb(0, MSR) & 0x10]).toEqual([0, 0]);
  expect(sent).toBeLessThan(DATA.length);
  let got = '';
  await until(() => {
    got += readSome(terminal);
    go();
    return got.length >= DATA.length;
  });
  expect(got).toBe(DATA.toString('latin1'));
});

test('a guest that reads nothing holds up who types, is interrupted once, and loses nothing', async () => {
  using steps = recordTrace(trace.vfio);
  using card = new Card({ port0: 'pty' });
  using terminal = attach(ptyPath(steps));
  card.thread.pump();
  card.outb(0, FCR, 0x81);
  card.outb(0, IER, 1);
  let written = 0;
  const type = () => {
    try {
      while (written < DATA.length) written += writeSync(terminal.number, DATA.subarray(written));
    } catch {} // it is full
    card.thread.pump();
  };
  let interrupts = 0;
  let idle = 0;
  await until(() => {
    const before = written;
    type();
    interrupts += taken(card.irq);
    idle = written === before ? idle + 1 : 0;
    return idle > 20;
  });
  expect(written).toBeLessThan(DATA.length);
  expect(interrupts).toBe(1);
  let got = '';
  await until(() => {
    got += text(card.drain(0));
    type();
    return got.length >= DATA.length;
  });
  expect(got).toBe(DATA.toString('latin1'));
  expect(card.inb(0, LSR) & 2).toBe(0);
});

/** A listening socket, and the connections that came. */
async function listen(): Promise<{ path: string; server: Server; accepted: () => Promise<Socket> }> {
  const folder = mkdtempSync(join(tmpdir(), 'mtty-'));
  const path = join(folder, 'sock');
  const sockets: Socket[] = [];
  let waiting: ((socket: Socket) => void) | undefined;
  const server = createServer((socket) => (waiting === undefined ? sockets.push(socket) : waiting(socket)));
  await new Promise<void>((resolve) => server.listen(path, resolve));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  const accepted = () =>
    new Promise<Socket>((resolve) => {
      const first = sockets.shift();
      if (first !== undefined) resolve(first);
      else waiting = resolve;
    });
  return { path, server, accepted };
}

test('a port on a unix socket talks to who listens there; when that one goes, the carrier falls and the guest lives', async () => {
  using steps = recordTrace(trace.vfio);
  const { path, server, accepted } = await listen();
  {
    using card = new Card({ port1: `unix:${path}` });
    const peer = await accepted();
    let heard = '';
    peer.on('data', (piece) => {
      heard += piece.toString('latin1');
    });
    card.outb(1, FCR, 1);
    expect(card.inb(1, MSR) & ONLINE).toBe(ONLINE);
    card.send(1, Buffer.from('from the guest'));
    card.thread.pump();
    await until(() => heard === 'from the guest');
    let got = '';
    peer.write('to the guest');
    await until(() => {
      card.thread.pump();
      got += text(card.drain(1));
      return got === 'to the guest';
    });
    peer.destroy();
    await until(() => {
      card.thread.pump();
      return (card.inb(1, MSR) & ONLINE) === 0;
    });
    const lines = Buffer.alloc(100_000, 'x');
    for (let sent = 0; sent < lines.length; card.thread.pump()) sent += card.send(1, lines.subarray(sent));
    const said = steps.events.map((event) => event.text ?? '');
    expect(said.filter((line) => line.includes('has disconnected'))).toHaveLength(1);
  }
  await new Promise((resolve) => server.close(resolve));
});

test.each([
  ['/nowhere/sock', 'ENOENT', 'start its server first'],
  [process.execPath, 'ECONNREFUSED', 'the file there is no socket'],
])('a socket that cannot be had (%s) is %s with a hint, and the ports are free again', (path, code, hint) => {
  const attempt = () => new Card({ port0: `unix:${path}` });
  expect(attempt).toThrowError(new RegExp(`connect on ${path}: ${code}\\n.*${hint}`));
});
