import { PassThrough, Writable } from 'node:stream';
import { expect, test } from 'vitest';
import { LineSplitter } from './line-splitter.js';
import { Output, type OutputStream } from './output.js';

test('a guest’s line that never ends is printed in pieces, so that it takes no memory', () => {
  const printed: string[] = [];
  const lines = new LineSplitter((line) => {
    printed.push(line);
    return undefined;
  });
  for (let i = 0; i < 1000; i++) lines.push(new Uint8Array(256).fill(0x61));
  const characters = printed.reduce((sum, line) => sum + line.length, 0);
  expect(characters).toBeGreaterThan(1000 * 256 - 5000);
  lines.push(new TextEncoder().encode('end\r\nnext'));
  expect(printed.at(-1)).toMatch(/a*end$/);
});

test('of output that nobody reads 8 MiB wait, and what was dropped is told once it is read', async () => {
  const stream = new PassThrough();
  const out = new Output(stream as unknown as OutputStream);
  const line = 'x'.repeat(1 << 16);
  for (let i = 0; i < 1000; i++) out.line(line);
  expect(stream.listenerCount('drain')).toBe(1);
  expect(stream.writableLength).toBeLessThan(9 << 20);
  let text = '';
  stream.setEncoding('latin1').on('data', (piece: string) => {
    text += piece;
  });
  while (stream.writableLength > 0) await new Promise(setImmediate);
  out.line('the end');
  await new Promise(setImmediate);
  const printed = text.split('\n').filter((each) => each === line).length;
  expect(text).toMatch(/tsvisor: \d+ pieces of output were dropped, as nobody read them\nthe end\n$/);
  expect(Number(/(\d+) pieces/.exec(text)?.[1])).toBe(1000 - printed);
});

test('a write to a stream that is full is over when it has room, and a flush gives up on one that is not read', async () => {
  let next: (() => void) | undefined;
  const stream = new Writable({
    highWaterMark: 1,
    write(_piece, _encoding, done) {
      next = done;
    },
  });
  const out = new Output(stream as unknown as OutputStream);
  const writing = out.write('a');
  expect(writing).toBeInstanceOf(Promise);
  expect(await out.flush(10)).toBe(false);
  next?.();
  await writing;
});
