import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { capturedPort, PcapFile } from '../devices/net/index.js';
import { FakePort } from '../devices/virtio-net/testing/workbench.js';
import { framesOf, writeCapture } from './capture.js';

const folder = mkdtempSync(join(tmpdir(), 'capture-'));
afterAll(() => rmSync(folder, { recursive: true }));
const path = join(folder, 'a.pcap');

test('a written capture is read as it was, without its last frame while that is cut', () => {
  const frames = [0, 1, 60].map((length) => new Uint8Array(length).fill(length));
  writeCapture(path, frames);
  expect(framesOf(path).map((each) => [...each])).toEqual(frames.map((each) => [...each]));
  const bytes = readFileSync(path);
  for (const cut of [1, 60, 61, 76]) {
    writeFileSync(path, bytes.subarray(0, bytes.length - cut));
    expect(framesOf(path), `${cut} bytes short`).toHaveLength(2);
  }
  writeFileSync(path, Buffer.alloc(24));
  expect(() => framesOf(path)).toThrow(/is no capture/);
});

test('the captures of served devices are read, too', () => {
  using file = new PcapFile(path);
  using inner = new FakePort(undefined);
  const port = capturedPort(inner, file.fd, (error) => expect.unreachable(String(error)));
  port.transmit([Uint8Array.of(1, 2), Uint8Array.of(3)]);
  expect(framesOf(path).map((each) => [...each])).toEqual([[1, 2, 3]]);
});
