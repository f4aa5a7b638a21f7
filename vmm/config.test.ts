import { totalmem } from 'node:os';
import { expect, test } from 'vitest';
import { parseConfig, parseSize } from './config.js';
import { ConfigError } from './config-error.js';

function problemsOf(input: unknown): readonly { path: string; text: string }[] {
  try {
    parseConfig(input);
  } catch (error) {
    if (error instanceof ConfigError) return error.problems;
    throw error;
  }
  return [];
}

test('sizes are read as people write them', () => {
  expect(parseSize('4096')).toBe(4096n);
  expect(parseSize('64M')).toBe(64n << 20n);
  expect(parseSize('2GiB')).toBe(2n << 30n);
  expect(parseSize('1.5G')).toBeUndefined();
  expect(parseSize('-1')).toBeUndefined();
  expect(parseSize('')).toBeUndefined();
});

test('an empty configuration is a machine with 64 MiB, one vCPU and no device', () => {
  expect(parseConfig({})).toMatchObject({ memory: 64n << 20n, vcpus: 1, devices: [], cmdline: '' });
});

test('memory that is empty, off a page or more than the host has is refused with the numbers', () => {
  expect(problemsOf({ memory: 0 })).toEqual([
    { path: 'memory', text: 'is empty; a machine needs at least one page (4096 bytes)' },
  ]);
  expect(problemsOf({ memory: '4097' })[0]?.text).toMatch(
    /4097 bytes is not a multiple of the page size, 4096/,
  );
  expect(
    problemsOf({ memory: BigInt(totalmem()) * 2n - (BigInt(totalmem()) % 4096n) * 2n })[0]?.text,
  ).toMatch(/MiB is more than the \d+ MiB this host has/);
  expect(problemsOf({ memory: 'lots' })[0]?.text).toMatch(/'lots' is not a size/);
});

test('a dirty ring is off, or a power of two from 1024 to 65536', () => {
  expect(parseConfig({}).dirtyRing).toBe(0);
  for (const dirtyRing of [0, 1024, 4096, 65_536]) expect(problemsOf({ dirtyRing })).toEqual([]);
  for (const dirtyRing of [-1024, 1, 512, 1025, 1024.5, 3072, 131_072, 2 ** 32 + 1024, 1e300])
    expect(problemsOf({ dirtyRing })).toEqual([
      { path: 'dirtyRing', text: 'is neither 0 nor a power of two from 1024 to 65536' },
    ]);
});

test('all problems are listed at once, each with its path', () => {
  const problems = problemsOf({
    memory: 1,
    vcpus: 0,
    wheels: 4,
    devices: [
      { address: 'a', slot: 40 },
      { address: '' },
      { address: 'b', slot: 5 },
      { address: 'c', slot: 5 },
    ],
  });
  expect(problems.map(({ path }) => path).sort()).toEqual([
    '(top level)',
    'devices[0].slot',
    'devices[1].address',
    'devices[3].slot',
    'memory',
    'vcpus',
  ]);
  expect(
    problemsOf({
      devices: [
        { address: 'b', slot: 5 },
        { address: 'c', slot: 5 },
      ],
    }),
  ).toEqual([{ path: 'devices[1].slot', text: "5 is devices[0]'s" }]);
});

test('functions of a slot need a function 0, and name their slot', () => {
  const problems = (...devices: object[]) => {
    const listed = devices.map((device) => ({ address: 'a', ...device }));
    return problemsOf({ devices: listed }).map(({ path, text }) => `${path}: ${text}`);
  };
  expect(
    problems({ slot: 5, function: 1 }, { slot: 5 }, { slot: 6, function: 0 }, { slot: 6, function: 7 }),
  ).toEqual([]);
  expect(problems({ slot: 5, function: 1 })).toEqual([
    'devices[0].slot: 5.1 needs a device that is function 0, slot=5, beside it',
  ]);
  expect(problems({ function: 1 })).toEqual(['devices[0].slot: a device that is function 1 names its slot']);
  expect(problems({ slot: 5 }, { slot: 5, function: 2 }, { slot: 5, function: 2 })).toEqual([
    "devices[2].slot: 5.2 is devices[1]'s",
  ]);
  expect(problems({ slot: 5 }, { slot: 5, function: 8 })).toHaveLength(1);
});

test('a checked configuration cannot be changed', () => {
  const config = parseConfig({});
  expect(() => Object.assign(config, { vcpus: 2 })).toThrowError(TypeError);
});
