import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, statSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { SysError } from '../../sys/error.js';
import { trace } from '../../sys/trace.js';
import { maps } from '../virtio-net/testing/guest.js';
import { taken } from '../virtio-net/testing/workbench.js';
import { DATA, DiskBench, diskFile, NO_STATUS, pattern, testFolder } from './testing/workbench.js';

const BYTES = 256 << 10;
const [OK, IOERR, UNSUPP] = [0, 1, 2];
const SECTORS = BYTES / 512;
const ORIGINAL = pattern(BYTES);
/** Of large arrays: expect would compare and print each element. */
const isSame = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;

function disk(options: Readonly<Record<string, string>> = {}) {
  const folder = testFolder();
  const file = diskFile(folder.path, ORIGINAL);
  const bench = new DiskBench({ file, ...options });
  return {
    bench,
    file,
    contents: () => new Uint8Array(readFileSync(file)),
    [Symbol.dispose]() {
      bench[Symbol.dispose]();
      folder[Symbol.dispose]();
    },
  };
}

const failure = (options: Readonly<Record<string, string>>): SysError => {
  try {
    new DiskBench(options)[Symbol.dispose]();
  } catch (error) {
    if (error instanceof SysError) return error;
    throw error;
  }
  throw new Error('it was opened');
};

/** What is said of the guest, or of the disk, while `act` runs. */
function said(channel: 'vfio' | 'guestMisuse', act: () => void): string[] {
  const texts: string[] = [];
  const hear = (event: { readonly text?: string | undefined }) => void texts.push(event.text ?? '');
  trace[channel].subscribe(hear as never);
  act();
  trace[channel].unsubscribe(hear as never);
  return texts;
}

test('a wrong option is EINVAL, and the hint lists all of them', () => {
  const { code, hint } = failure({ format: 'vmdk', readonly: 'yes', serial: 'x'.repeat(21), cache: 'none' });
  expect(code).toBe('EINVAL');
  expect(hint).toContain('unknown option cache');
  expect(hint).toContain('file: the path of the disk is missing');
  expect(hint).toContain('format: vmdk is none of raw, qcow2');
  expect(hint).toContain('readonly: yes is neither on nor off');
  expect(hint).toContain('serial:');
});

test('the configuration structure has size, block size and limits of the disk', () => {
  using d = disk();
  const { driver } = d.bench;
  expect(driver.config(2, 2)).toBe(0x1042);
  expect(driver.config(0x0a, 2)).toBe(0x0100);
  const words = [0, 4, 12, 20, 36, 40, 44, 48, 52].map((at) => driver.deviceConfig(at, 4));
  expect(words).toEqual([SECTORS, 0, 254, 512, 0x3ffff8, 32, 8, 0x3ffff8, 32]);
  expect([driver.deviceConfig(24, 1), driver.deviceConfig(56, 1), driver.deviceConfig(60, 4)]).toEqual([
    3, 1, 0xffffffff,
  ]);
});

test('a disk offers what it can do, and a read-only one only reading', () => {
  using writable = disk();
  using readable = disk({ readonly: 'on' });
  const common =
    (1n << 2n) | (1n << 6n) | (1n << 10n) | (1n << 28n) | (1n << 29n) | (1n << 32n) | (1n << 33n);
  expect(writable.bench.driver.offered).toBe(common | (1n << 9n) | (1n << 13n) | (1n << 14n));
  expect(readable.bench.driver.offered).toBe(common | (1n << 5n));
});

describe('what is read and written', () => {
  test('is the file, at the sector, and both are counted', () => {
    using d = disk();
    const { bench } = d;
    bench.start(bench.driver.offered & ~(1n << 29n)); // without EVENT_IDX, each is followed by an interrupt
    expect(bench.read(3, 4096)).toEqual(ORIGINAL.subarray(1536, 1536 + 4096));
    expect(bench.write(SECTORS - 8, pattern(4096, 99))).toBe(OK);
    expect(d.contents().subarray(-4096)).toEqual(pattern(4096, 99));
    expect(bench.instance.counters()).toMatchObject({
      ...{ reads: 1, readBytes: 4096, writes: 1, writtenBytes: 4096, errors: 0, interrupts: 2 },
    });
    expect(taken(bench.vectors[1]!)).toBe(2);
  });

  test('may lie in many buffers, in an indirect table, and beyond a border of two maps', () => {
    using d = disk();
    const { bench } = d;
    bench.start();
    const { header, status } = bench.frame(0, 8);
    const border = maps.main.iova + maps.main.bytes;
    const at = (address: number, length: number) => ({ address, length, isDeviceWritable: true });
    const table = maps.main.iova + 0x40000;
    bench.queue.add([header, at(DATA, 100), at(border - 300, 600), at(DATA + 4096, 324), status], table);
    bench.ring();
    expect(bench.statusAt(status)).toBe(OK);
    expect(bench.queue.reap()).toEqual([{ id: 0, length: 1025 }]);
    const { memory } = bench;
    const got = [
      ...memory.bytes.subarray(memory.at(DATA), memory.at(DATA) + 100),
      ...memory.bytes.subarray(memory.at(border - 300), memory.at(border - 300) + 300),
      ...memory.bytes.subarray(memory.at(border), memory.at(border) + 300),
      ...memory.bytes.subarray(memory.at(DATA + 4096), memory.at(DATA + 4096) + 324),
    ];
    expect(Uint8Array.from(got)).toEqual(ORIGINAL.subarray(4096, 5120));
  });

  test('is found with a header that is cut in two, and a status behind the data in one buffer', () => {
    using d = disk();
    const { bench } = d;
    bench.start();
    const { header } = bench.frame(0, 1);
    bench.queue.add([
      { address: header.address, length: 5 },
      { address: header.address + 5, length: 11 },
      { address: DATA, length: 513, isDeviceWritable: true },
    ]);
    bench.memory.bytes[bench.memory.at(DATA + 512)] = NO_STATUS;
    bench.ring();
    const at = bench.memory.at(DATA);
    expect(bench.memory.bytes.slice(at, at + 512)).toEqual(pattern(1024).subarray(512));
    expect(bench.memory.bytes[at + 512]).toBe(OK);
  });
});

test('GET_ID answers the serial number in 20 bytes', () => {
  using d = disk({ serial: 'root-1' });
  d.bench.start();
  expect(d.bench.request(8, 0, [{ address: DATA, length: 20, isDeviceWritable: true }])).toBe(OK);
  const at = d.bench.memory.at(DATA);
  expect(Buffer.from(d.bench.memory.bytes.subarray(at, at + 20)).toString('latin1')).toBe(
    'root-1'.padEnd(20, '\0'),
  );
});

describe('discard and write zeroes', () => {
  test('free the space of the file, and what is left reads 0', () => {
    using d = disk();
    const { bench } = d;
    bench.start();
    const before = statSync(d.file).blocks;
    expect(bench.ranges(11, [[0, 128, 0]])).toBe(OK);
    const zeroed = [
      [128, 64, 1],
      [192, 64, 0],
    ] as const;
    expect(bench.ranges(13, zeroed)).toBe(OK);
    expect(statSync(d.file).blocks).toBeLessThanOrEqual(before - 192);
    const half = BYTES / 2;
    expect(isSame(d.contents().subarray(0, half), new Uint8Array(half))).toBe(true);
    expect(isSame(d.contents().subarray(half), ORIGINAL.subarray(half))).toBe(true);
    expect(bench.instance.counters().discards).toBe(2);
  });

  test('of several ranges do none if one is not on the disk', () => {
    using d = disk();
    const { bench } = d;
    bench.start();
    for (const bad of [
      [SECTORS - 1, 2, 0],
      [2 ** 40, 1, 0],
      [0, 0x3ffff9, 0],
    ] as const) {
      expect(bench.ranges(11, [[0, 8, 0], bad])).toBe(IOERR);
      expect(bench.ranges(13, [[0, 8, 0], bad])).toBe(IOERR);
    }
    expect(isSame(d.contents(), ORIGINAL)).toBe(true);
  });

  test('with flags that they do not have are unsupported', () => {
    using d = disk();
    d.bench.start();
    expect(d.bench.ranges(11, [[0, 8, 1]])).toBe(UNSUPP);
    expect(d.bench.ranges(13, [[0, 8, 2]])).toBe(UNSUPP);
    expect(isSame(d.contents(), ORIGINAL)).toBe(true);
  });

  test('without a range, with half a one, and with 33 are errors', () => {
    using d = disk();
    d.bench.start();
    expect(d.bench.request(11, 0, [])).toBe(IOERR);
    expect(d.bench.request(11, 0, [{ address: DATA, length: 24 }])).toBe(IOERR);
    expect(
      d.bench.ranges(
        11,
        Array.from({ length: 33 }, () => [0, 1, 0] as const),
      ),
    ).toBe(IOERR);
  });
});

describe('a guest that asks for what is not there', () => {
  test('gets an error, and nothing is touched', () => {
    using d = disk();
    const { bench } = d;
    bench.start();
    for (const sector of [SECTORS, SECTORS - 7, 2 ** 32, 2n ** 55n, 2n ** 64n - 1n]) {
      const data = { address: DATA, length: 4096 };
      expect(bench.request(1, sector, [data])).toBe(IOERR);
      expect(bench.request(0, sector, [{ ...data, isDeviceWritable: true }])).toBe(IOERR);
    }
    expect(bench.request(1, 0, [{ address: DATA, length: 511 }])).toBe(IOERR);
    expect(bench.request(99, 0, [])).toBe(UNSUPP);
    expect(isSame(d.contents(), ORIGINAL)).toBe(true);
    expect(bench.instance.counters().errors).toBe(12);
    expect(bench.driver.status & 0x40).toBe(0);
  });

  test('changes nothing of a read-only disk', () => {
    using d = disk({ readonly: 'on' });
    const { bench } = d;
    bench.start();
    expect(bench.write(0, pattern(512, 5))).toBe(IOERR);
    expect(bench.ranges(11, [[0, 8, 0]])).toBe(IOERR);
    expect(bench.ranges(13, [[0, 8, 0]])).toBe(IOERR);
    expect(bench.request(4, 0, [])).toBe(OK);
    expect(bench.read(0, 512)).toEqual(pattern(512));
    expect(isSame(d.contents(), ORIGINAL)).toBe(true);
  });
});

describe('a guest that breaks the rules of the queue', () => {
  const cases: Readonly<Record<string, (bench: DiskBench) => void>> = {
    'no byte for the status': (bench) => void bench.queue.add([bench.frame(0, 0).header]),
    'a header of 15 bytes': (bench) => {
      const { header, status } = bench.frame(0, 0);
      bench.queue.add([{ ...header, length: 15 }, status]);
    },
    'what is read behind what is written': (bench) => {
      const { header, status } = bench.frame(1, 0);
      bench.queue.add([header, status, { address: DATA, length: 512 }]);
    },
    'a buffer that is nowhere': (bench) => {
      const { header, status } = bench.frame(0, 0);
      bench.queue.add([header, { address: 0xdead_0000, length: 512, isDeviceWritable: true }, status]);
    },
    'a buffer that may only be read': (bench) => {
      const { header, status } = bench.frame(0, 0);
      bench.queue.add([header, { address: maps.readOnly.iova, length: 512, isDeviceWritable: true }, status]);
    },
    'a chain of gigabytes': (bench) => {
      const { header, status } = bench.frame(0, 0);
      const huge = { address: DATA, length: 0x8000_0000, isDeviceWritable: true };
      bench.queue.add([header, huge, huge, huge, status]);
    },
  };
  test.each(Object.keys(cases))('%s: the disk needs a reset, and says why', (name) => {
    using d = disk();
    const { bench } = d;
    bench.start();
    const texts = said('guestMisuse', () => {
      cases[name]!(bench);
      bench.ring();
    });
    expect(texts).toHaveLength(1);
    expect(texts[0]).toMatch(/^queue 0: /);
    expect(bench.driver.status & 0x40).toBe(0x40);
    expect(isSame(d.contents(), ORIGINAL)).toBe(true);
    bench.start();
    expect(bench.read(0, 512)).toEqual(pattern(512));
  });
});

test('a driver that does not flush has each write flushed, and one without bus mastering waits', () => {
  using d = disk();
  const { bench } = d;
  bench.start(bench.driver.offered & ~(1n << 9n));
  bench.driver.setBusMaster(false);
  expect(bench.write(0, pattern(512, 8))).toBe(NO_STATUS);
  bench.driver.setBusMaster(true);
  bench.thread.pump();
  expect(d.contents().subarray(0, 512)).toEqual(pattern(512, 8));
});

test('more requests than a turn takes are all served, and shown', () => {
  using d = disk();
  const { bench } = d;
  bench.start();
  const table = (i: number) => maps.main.iova + 0x40000 + 64 * i;
  for (let i = 0; i < 64; i++) {
    const { header, status } = bench.frame(0, i);
    bench.queue.add(
      [header, { address: DATA + 512 * i, length: 512, isDeviceWritable: true }, status],
      table(i),
    );
  }
  bench.ring();
  expect(bench.queue.reap()).toHaveLength(64);
  const at = bench.memory.at(DATA);
  expect(bench.memory.bytes.slice(at, at + 32768)).toEqual(pattern(32768));
});

describe('an image', () => {
  test('that another disk writes is refused, and two may read it', () => {
    using d = disk();
    const { file } = d;
    const { code, hint } = failure({ file });
    expect([code, hint]).toEqual(['EBUSY', expect.stringContaining('two at once would destroy it')]);
    expect(failure({ file, readonly: 'on' }).code).toBe('EBUSY');
    d.bench[Symbol.dispose]();
    using one = new DiskBench({ file, readonly: 'on' });
    using two = new DiskBench({ file, readonly: 'on' });
    expect(one.start().read(0, 512)).toEqual(two.start().read(0, 512));
    expect(failure({ file }).code).toBe('EBUSY');
  });

  test('that begins as qcow2 is a disk only if its format is given', () => {
    using folder = testFolder();
    const file = diskFile(folder.path, Uint8Array.of(0x51, 0x46, 0x49, 0xfb, ...new Uint8Array(1020)));
    expect(failure({ file }).hint).toContain('or format=raw');
    using bench = new DiskBench({ file, format: 'raw' });
    expect(bench.instance.bytes).toBe(1024);
  });

  test('that is missing, no file, or shorter than a sector is an error that names it', () => {
    using folder = testFolder();
    const path = (name: string) => join(folder.path, name);
    mkdirSync(path('folder'));
    spawnSync('mkfifo', [path('pipe')]);
    diskFile(folder.path, new Uint8Array(511), 'short');
    expect(failure({ file: path('none') }).code).toBe('ENOENT');
    expect(failure({ file: path('folder'), readonly: 'on' }).hint).toContain(
      'a regular file or a block device',
    );
    expect(failure({ file: path('pipe'), readonly: 'on' }).hint).toContain(
      'a regular file or a block device',
    );
    expect(failure({ file: path('short') }).hint).toContain('at least 512 bytes');
  });
});

test('a file that has become shorter reads 0 there', () => {
  using folder = testFolder();
  const file = diskFile(folder.path, pattern(8192));
  using bench = new DiskBench({ file });
  bench.start();
  truncateSync(file, 4096);
  expect(bench.read(8, 4096)).toEqual(new Uint8Array(4096));
});

test('what the host refuses is an I/O error of the guest, and is said once', () => {
  using folder = testFolder();
  using bench = new DiskBench({ file: diskFile(folder.path, pattern(8192)) });
  bench.start();
  const limit = (bytes: string) => spawnSync('prlimit', [`--pid=${process.pid}`, `--fsize=${bytes}`]).status;
  process.on('SIGXFSZ', ignore);
  expect(limit('4096:unlimited')).toBe(0);
  const texts = said('vfio', () => {
    expect(bench.write(8, pattern(512, 3))).toBe(IOERR);
    expect(bench.write(9, pattern(512, 3))).toBe(IOERR);
    bench.thread.pump();
  });
  expect(limit('unlimited')).toBe(0);
  process.off('SIGXFSZ', ignore);
  expect(texts).toEqual([expect.stringMatching(/the guest gets an I\/O error: pwritev on .*: EFBIG/)]);
  expect(bench.write(0, pattern(512, 3))).toBe(OK);
});

const ignore = (): void => {};
