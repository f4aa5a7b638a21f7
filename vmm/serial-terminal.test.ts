import { once } from 'node:events';
import { PassThrough } from 'node:stream';
import { setImmediate as turn } from 'node:timers/promises';
import { expect, onTestFinished, test } from 'vitest';
import { ChannelReader } from '../devices/line/byte-channel.js';
import { EscapeKeys } from './escape-keys.js';
import { SerialInput } from './serial-input.js';
import { SerialTerminal } from './serial-terminal.js';

/** A machine whose guest reads when the test says so. */
class Guest {
  readonly calls: string[] = [];
  readonly #input = new SerialInput(() => {});
  readonly #reader = new ChannelReader(this.#input.buffer, () => void setImmediate(() => this.#input.pump()));

  typeSerial(bytes: Uint8Array, port = 0): Promise<boolean> {
    if (port !== 0) throw new RangeError(`no port ${port}`);
    return this.#input.type(bytes);
  }

  stop(by?: string): void {
    this.calls.push(`stop ${by}`);
  }

  pressPowerButton(): void {
    this.calls.push('power button');
  }

  end(): void {
    this.#input.end();
  }

  read(): Buffer {
    const bytes = Buffer.from(this.#reader.peek());
    this.#reader.take(bytes.length);
    return bytes;
  }
}

function terminal(isTTY: boolean) {
  const modes: boolean[] = [];
  const input = Object.assign(new PassThrough(), { isTTY, setRawMode: (is: boolean) => modes.push(is) });
  const guest = new Guest();
  const lines: string[] = [];
  const opened = SerialTerminal.open(guest, { input, print: (line) => lines.push(line) });
  onTestFinished(() => opened[Symbol.dispose]());
  return { input, guest, lines, modes, opened };
}

test('a terminal is raw until it is disposed, and again after the process was stopped', async () => {
  const { modes, opened } = terminal(true);
  expect(modes).toEqual([true]);
  process.emit('SIGCONT');
  expect(modes).toEqual([true, false, true]);
  opened[Symbol.dispose]();
  process.emit('SIGCONT');
  expect(modes).toEqual([true, false, true, false]);
});

test('Ctrl-A is the escape key of a terminal, and a byte like others of a pipe', async () => {
  const keys = 'a\x01hb\x01\x01c\x01zd\x01p\x01x';
  const person = terminal(true);
  person.input.write(keys);
  await turn();
  expect(person.guest.read().toString()).toBe('ab\x01cd');
  expect(person.guest.calls).toEqual(['power button', 'stop Ctrl-A x']);
  expect(person.lines.join('\n')).toMatch(/Ctrl-A x {2}end the machine/);
  const pipe = terminal(false);
  pipe.input.write(keys);
  await turn();
  expect([pipe.guest.read().toString(), pipe.guest.calls, pipe.modes]).toEqual([keys, [], []]);
});

test('a key and its Ctrl-A may come apart', () => {
  const calls: string[] = [];
  const keys = new EscapeKeys({ end: () => calls.push('end'), powerButton: () => {}, help: () => {} });
  const filtered = ['x\x01', 'x', 'x'].map((typed) =>
    Buffer.from(keys.filter(Buffer.from(typed))).toString(),
  );
  expect([filtered, calls]).toEqual([['x', '', 'x'], ['end']]);
});

test('1 MiB of input reaches the guest whole, and little of it waits while the guest does not read', async () => {
  const { input, guest } = terminal(false);
  const typed = Buffer.from(Uint8Array.from({ length: 1 << 20 }, (_, i) => (i * 7 + (i >> 8)) & 0xff));
  let written = 0;
  const write = async () => {
    for (; written < typed.length; written += 4096)
      if (!input.write(typed.subarray(written, written + 4096))) await once(input, 'drain');
  };
  const writing = write();
  for (let i = 0; i < 200; i++) await turn();
  expect(input.isPaused()).toBe(true);
  expect(written).toBeLessThan(256 << 10);
  const got: Buffer[] = [];
  let length = 0;
  for (; length < typed.length; await turn()) {
    const piece = guest.read();
    got.push(piece);
    length += piece.length;
  }
  await writing;
  expect(Buffer.concat(got).equals(typed)).toBe(true);
});

test('the end of the input ends only the input; what is typed when the machine has ended is not taken', async () => {
  const { input, guest } = terminal(false);
  input.end('last');
  await turn();
  await turn();
  expect([guest.read().toString(), guest.calls]).toEqual(['last', []]);
  const waiting = guest.typeSerial(Buffer.alloc(10_000));
  guest.end();
  expect([await waiting, await guest.typeSerial(Buffer.from('x'))]).toEqual([false, false]);
});
