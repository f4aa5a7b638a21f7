import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createConnection, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import type { EventTask } from '../../sys/event-task.js';
import { signalEventfd } from '../../sys/eventfd.js';
import { Fd } from '../../sys/fd.js';
import { InlineEventThread } from '../../sys/inline-event-thread.js';
import { Scope } from '../../sys/scope.js';
import { openFds } from '../../sys/testing/open-fds.js';
import { until } from '../mtty/testing/until.js';
import { Uart16550 } from '../uart-16550.js';
import { ChannelLine } from './channel-line.js';
import { type OpenHostEnd, openHostEnd } from './host-end.js';
import { createLineBuffers, type HostEnd, type LineBuffers } from './messages.js';
import { type SerialNotice, type SerialTaskData, start } from './serial-task.js';

const TASK = new URL('test:serial-task');
const [THR, IER, FCR, LSR, MSR] = [0, 1, 2, 5, 6] as const;

const folder = (): string => {
  const path = mkdtempSync(join(tmpdir(), 'serial-'));
  onTestFinished(() => rmSync(path, { recursive: true }));
  return path;
};

/** One run of a machine with a serial port: its registers, and the task that connects them with the end. */
class Run implements Disposable {
  readonly thread: InlineEventThread;
  readonly uart: Uart16550;
  readonly texts: string[] = [];
  readonly #task: EventTask;
  readonly #scope: Scope;

  constructor({ numbers: end }: OpenHostEnd, buffers: LineBuffers) {
    using scope = new Scope();
    this.thread = scope.own(new InlineEventThread(new Map([[TASK.href, start]])));
    const doorbell = scope.own(Fd.eventfd('doorbell'));
    const line = new ChannelLine(buffers, () => signalEventfd(doorbell.number), true);
    this.uart = new Uart16550('COM1', { line, raise: () => {} });
    const data: SerialTaskData = { lines: [{ name: 'COM1', end, buffers }], doorbell: doorbell.number };
    this.#task = scope.own(this.thread.run(TASK, data));
    this.#task.receive = (message) => {
      const { text } = message as SerialNotice;
      if (text !== undefined) this.texts.push(text);
      this.uart.update();
    };
    this.uart.write(FCR, Uint8Array.of(1));
    this.uart.write(IER, Uint8Array.of(1));
    this.#scope = scope.move();
  }

  in(register: number): number {
    const data = new Uint8Array(1);
    this.uart.read(register, data);
    return data[0] as number;
  }

  /** As a driver does: 16 bytes whenever the transmitter is empty. Returns how many it could. */
  send(bytes: Uint8Array): number {
    let sent = 0;
    for (; sent < bytes.length && (this.in(LSR) & 0x20) !== 0; sent += 16)
      for (const byte of bytes.subarray(sent, sent + 16)) this.uart.write(THR, Uint8Array.of(byte));
    this.thread.pump();
    return Math.min(sent, bytes.length);
  }

  /** Reads all that is there. */
  take(): Buffer {
    this.thread.pump();
    const got: number[] = [];
    while ((this.in(LSR) & 1) !== 0) got.push(this.in(THR));
    return Buffer.from(got);
  }

  [Symbol.dispose](): void {
    this.#scope[Symbol.dispose]();
  }
}

/** A client of the socket. */
async function connect(path: string): Promise<{ socket: Socket; heard: () => string }> {
  const socket = createConnection(path);
  onTestFinished(() => void socket.destroy());
  let heard = '';
  socket.on('data', (piece) => {
    heard += piece.toString('latin1');
  });
  await new Promise<void>((resolve, reject) => socket.once('connect', resolve).once('error', reject));
  return { socket, heard: () => heard };
}

const bytes = (text: string) => Buffer.from(text, 'latin1');

test('a socket serves one client after the other, and keeps the client while the machine restarts', async () => {
  const path = join(folder(), 'com1.sock');
  const buffers = createLineBuffers();
  const fds = () => readdirSync('/proc/self/fd').length;
  const before = fds();
  {
    using end = openHostEnd({ kind: 'listen', path });
    expect(statSync(path).mode & 0o777).toBe(0o600);
    const texts: string[] = [];
    {
      using run = new Run(end, buffers);
      expect(run.send(bytes('to nobody'))).toBe(9);
      const first = await connect(path);
      await until(() => run.take() !== undefined && run.texts.length === 1);
      const second = await connect(path);
      second.socket.write('second');
      run.send(bytes('login: '));
      first.socket.write('first');
      let got = '';
      await until(() => {
        got += run.take().toString('latin1');
        return got === 'first' && first.heard() === 'login: ';
      });
      first.socket.end();
      await until(() => {
        got += run.take().toString('latin1');
        return got === 'firstsecond';
      });
      texts.push(...run.texts);
      run.send(bytes('before the restart, '));
    }
    {
      using run = new Run(end, buffers);
      run.send(bytes('after it'));
      const third = await connect(path);
      third.socket.write('third');
      expect(run.take().toString()).toBe(''); // the second is still there
      expect(run.texts).toEqual([]);
      texts.push(...run.texts);
    }
    expect(texts).toEqual([
      `${path}: a client has connected`,
      `${path}: the client has disconnected`,
      `${path}: a client has connected`,
    ]);
  }
  expect(statSync(path, { throwIfNoEntry: false })).toBeUndefined();
  // The test's own three sockets are open until it has finished.
  expect(fds() - before).toBeLessThanOrEqual(3);
});

test('what a client types is read whole and in order, however fast it comes', async () => {
  const path = join(folder(), 'com1.sock');
  using end = openHostEnd({ kind: 'listen', path });
  using run = new Run(end, createLineBuffers());
  const { socket } = await connect(path);
  const typed = Buffer.from(Uint8Array.from({ length: 1 << 20 }, (_, i) => (i * 7 + (i >> 8)) & 0xff));
  socket.write(typed);
  const pieces: Buffer[] = [];
  let length = 0;
  await until(() => {
    const piece = run.take();
    pieces.push(piece);
    length += piece.length;
    return length === typed.length;
  });
  expect(Buffer.concat(pieces).equals(typed)).toBe(true);
});

test('a client that takes nothing stops the transmitter, and what the guest sends then is not lost', async () => {
  const path = join(folder(), 'com1.sock');
  using end = openHostEnd({ kind: 'listen', path });
  using run = new Run(end, createLineBuffers());
  const { socket, heard } = await connect(path);
  socket.pause();
  await until(() => run.take() !== undefined && run.texts.length === 1);
  const sent = Buffer.alloc(768 << 10, 'guest ');
  let at = 0;
  let idle = 0;
  await until(() => {
    const count = run.send(sent.subarray(at));
    at += count;
    idle = count === 0 ? idle + 1 : 0;
    return idle > 20;
  });
  expect(at).toBeLessThan(sent.length);
  expect([run.in(LSR), run.in(MSR) & 0xf0]).toEqual([0, 0xb0]);
  socket.resume();
  await until(() => {
    at += run.send(sent.subarray(at));
    return heard().length === sent.length;
  });
  expect(heard()).toBe(sent.toString('latin1'));
  expect(run.uart.lost).toBe(0);
});

test('a file takes the output, begins anew with the machine, and goes on when it restarts', () => {
  const path = join(folder(), 'com1.log');
  writeFileSync(path, 'of another machine, and longer than what comes');
  const buffers = createLineBuffers();
  using end = openHostEnd({ kind: 'file', path });
  for (const text of ['first\n', 'second\n']) {
    using run = new Run(end, buffers);
    expect(run.send(bytes(text))).toBe(text.length);
  }
  expect(readFileSync(path, 'latin1')).toBe('first\nsecond\n');
});

test('a file that cannot be written is reported once, and the guest goes on', () => {
  using end = openHostEnd({ kind: 'file', path: '/dev/full' });
  using run = new Run(end, createLineBuffers());
  const text = Buffer.alloc(100_000, 'x');
  for (let at = 0; at < text.length; ) at += run.send(text.subarray(at));
  expect(run.texts).toEqual([
    "/dev/full cannot be written (ENOSPC): the guest's output is dropped from here on",
  ]);
});

test.each<[HostEnd['kind'], string, string]>([
  ['file', '/no/such/log', 'ENOENT'],
  ['listen', '/no/such/sock', 'ENOENT'],
  ['listen', process.execPath, 'EADDRINUSE'],
])('an end that cannot be opened (%s %s) is %s, and nothing is left open', (kind, path, code) => {
  const fds = openFds();
  expect(() => openHostEnd({ kind, path })).toThrowError(code);
  expect(openFds()).toEqual(fds);
});
