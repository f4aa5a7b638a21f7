import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, expect, test } from 'vitest';
import { FakePort } from '../virtio-net/testing/workbench.js';
import { capturedPort, PcapFile } from './pcap.js';

const folder = mkdtempSync(join(tmpdir(), 'tsvisor-pcap-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
let last = 0;
const newPath = () => join(folder, `${last++}.pcap`);
const hasTcpdump = spawnSync('tcpdump', ['--version']).status === 0;

/** The frames of a capture, by the format's text. */
function framesOf(path: string): Uint8Array[] {
  const bytes = readFileSync(path);
  expect(bytes.readUInt32LE(0)).toBe(0xa1b23c4d);
  expect(bytes.readUInt32LE(20), 'Ethernet').toBe(1);
  const frames: Uint8Array[] = [];
  for (let at = 24; at < bytes.length; ) {
    const [seconds, nanoseconds, kept, length] = [0, 4, 8, 12].map((word) => bytes.readUInt32LE(at + word));
    expect(Math.abs((seconds as number) - Date.now() / 1000)).toBeLessThan(100);
    expect(nanoseconds).toBeLessThan(1e9);
    expect(kept).toBe(length);
    frames.push(Uint8Array.from(bytes.subarray(at + 16, at + 16 + (kept as number))));
    at += 16 + (kept as number);
  }
  return frames;
}

const frame = (length: number, seed: number) => Uint8Array.from({ length }, (_, i) => (i * 7 + seed) & 0xff);

test.each([
  ['bare frames', undefined],
  ['frames with a header of virtio-net', 1],
])('whatever passes a port with %s, scattered as it may be, is in the file, in order', (_what, offered) => {
  const skip = offered === undefined ? 0 : 12;
  const passage = fc.record({
    length: fc.integer({ min: 14, max: 2000 }),
    cut: fc.integer({ min: 0, max: 2012 }),
    isSent: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(passage, { maxLength: 12 }), (passages) => {
      const path = newPath();
      using file = new PcapFile(path);
      const inner = new FakePort(offered);
      const port = capturedPort(inner, file.fd, (error) => expect.unreachable(String(error)));
      const expected: Uint8Array[] = [];
      for (const [i, { length, cut, isSent }] of passages.entries()) {
        const whole = frame(skip + length, i);
        if (isSent) port.transmit([whole.subarray(0, cut), whole.subarray(cut)]);
        else {
          inner.waiting.push(whole);
          const parts = [new Uint8Array(cut), new Uint8Array(3000)];
          expect(port.receive(parts)).toBe(skip + length);
        }
        expected.push(whole.subarray(skip));
      }
      expect(framesOf(path)).toEqual(expected);
      expect(inner.sent).toHaveLength(passages.filter(({ isSent }) => isSent).length);
      inner[Symbol.dispose]();
    }),
    { numRuns: 40 },
  );
});

test('a frame is in the file as soon as it has passed, and what was there before is gone', () => {
  const path = newPath();
  writeFileSync(path, 'something else, which is longer than the header of a capture');
  using file = new PcapFile(path);
  using inner = new FakePort();
  const port = capturedPort(inner, file.fd, () => expect.unreachable());
  expect(framesOf(path)).toEqual([]);
  port.transmit([frame(60, 1)]);
  expect(framesOf(path)).toHaveLength(1);
});

test('a new capture can be read by its owner only', () => {
  const path = newPath();
  using _file = new PcapFile(path);
  expect(statSync(path).mode & 0o777).toBe(0o600);
});

test('nothing to receive, and a frame that was too long for the parts, leave nothing in the file', () => {
  const path = newPath();
  using file = new PcapFile(path);
  using inner = new FakePort();
  const port = capturedPort(inner, file.fd, () => expect.unreachable());
  expect(port.receive([new Uint8Array(100)])).toBe(0);
  inner.waiting.push(frame(200, 0));
  expect(port.receive([new Uint8Array(100)])).toBe(-1);
  expect(framesOf(path)).toEqual([]);
});

test('a file that cannot be written is reported once, and frames pass on', () => {
  using inner = new FakePort();
  const errors: unknown[] = [];
  const port = capturedPort(inner, 1_000_000, (error) => errors.push(error));
  port.transmit([frame(60, 1)]);
  port.transmit([frame(60, 2)]);
  expect(errors).toHaveLength(1);
  expect(errors[0]).toMatchObject({ code: 'EBADF', call: 'writev' });
  expect(inner.sent).toHaveLength(2);
});

test.each([
  ['a device', '/dev/null', 'EINVAL'],
  ['a folder', folder, 'EISDIR'],
  ['a file in a folder that is not there', join(folder, 'none', 'x'), 'ENOENT'],
])('%s is no place for a capture', (_what, path, code) => {
  expect(() => new PcapFile(path)).toThrowError(expect.objectContaining({ code }));
});

test('a port with a data path of the kernel refuses that one, and keeps all else that it has', () => {
  using inner = new FakePort(1);
  const kernel = {} as never;
  const port = capturedPort(Object.assign(inner, { kernel }), -1, () => {});
  expect(port.kernel).toEqual({ refusal: expect.stringMatching(/captured/) });
  expect(port.fd).toBe(inner.fd);
  expect(port.offloads?.offered).toBe(1);
  inner.isFull = true;
  expect(port.isFull).toBe(true);
});

test.skipIf(!hasTcpdump)(
  `tcpdump reads a capture while it grows${hasTcpdump ? '' : ' (skipped: needs tcpdump)'}`,
  () => {
    const path = newPath();
    using file = new PcapFile(path);
    using inner = new FakePort();
    const port = capturedPort(inner, file.fd, () => expect.unreachable());
    const arp = Uint8Array.from([
      ...[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 1, 2, 3, 8, 6],
      ...[0, 1, 8, 0, 6, 4, 0, 1, 0x52, 0x54, 0, 1, 2, 3, 10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 10, 0, 2, 2],
    ]);
    for (const count of [1, 2]) {
      port.transmit([arp]);
      const { stdout } = spawnSync('tcpdump', ['-n', '-r', path], { encoding: 'utf8' });
      expect(stdout.match(/ARP, Request who-has 10\.0\.2\.2 tell 10\.0\.2\.15/g)).toHaveLength(count);
    }
  },
);
