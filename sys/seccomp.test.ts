import { existsSync, readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { errno } from './errno.js';
import {
  type CallCondition,
  type CallRule,
  lackingProgram,
  type Refusal,
  SECCOMP_RET_ALLOW,
  SECCOMP_RET_ERRNO,
  SECCOMP_RET_KILL_PROCESS,
  SECCOMP_RET_LOG,
  seccompProgram,
} from './seccomp.js';
import { SYSTEM_CALLS, type SystemCallName } from './system-calls.js';
import { runBpf, type SeccompData, seccompData } from './testing/bpf-interpreter.js';

const EPERM = SECCOMP_RET_ERRNO | errno.EPERM;
const ENOSYS = SECCOMP_RET_ERRNO | errno.ENOSYS;
const verdict = (rules: readonly CallRule[], data: SeccompData, refusal: Refusal = 'errno'): number =>
  runBpf(seccompProgram(rules, refusal), seccompData(data));

const HEADER = '/usr/include/x86_64-linux-gnu/asm/unistd_64.h';
test.skipIf(!existsSync(HEADER))('the numbers of system calls are the header’s', () => {
  const defined = new Map(
    [...readFileSync(HEADER, 'utf8').matchAll(/__NR_(\w+) (\d+)/g)].map(([, name, number]) => [
      name,
      Number(number),
    ]),
  );
  for (const [name, number] of Object.entries(SYSTEM_CALLS)) expect(defined.get(name), name).toBe(number);
});

describe('a call', () => {
  const rules: readonly CallRule[] = [
    { name: 'ioctl', when: [{ arg: 1, oneOf: [0xae80, 0x5401, 0x8000_ae01] }] },
    { name: 'read' },
    { name: 'clone', when: [{ arg: 0, bits: 0x7f01_0000, are: 0x0001_0000 }] },
    {
      name: 'prlimit64',
      when: [
        { arg: 0, oneOf: [0] },
        { arg: 2, isZero: true },
      ],
    },
    { name: 'clone3', when: 'never', otherwise: errno.ENOSYS },
    { name: 'socket', when: [{ arg: 0, oneOf: [1] }], otherwise: errno.EACCES },
  ];

  test.each([
    ['that is listed is allowed', { nr: 0 }, SECCOMP_RET_ALLOW],
    ['that is not listed fails', { nr: 59 }, EPERM],
    ['that is younger than the list is one that the kernel does not have', { nr: 450 }, ENOSYS],
    ['of the x32 ABI fails', { nr: 0x4000_0000 }, EPERM],
    ['-1 fails', { nr: 0xffff_ffff }, EPERM],
    ['of another architecture ends the process', { nr: 0, arch: 0x4000_0003 }, SECCOMP_RET_KILL_PROCESS],
    ['with the first value is allowed', { nr: 16, args: [3, 0xae80] }, SECCOMP_RET_ALLOW],
    ['with another value is allowed', { nr: 16, args: [3, 0x8000_ae01] }, SECCOMP_RET_ALLOW],
    [
      'whose value has an upper half is what the kernel makes of it',
      { nr: 16, args: [3, 0x1_0000_ae80] },
      SECCOMP_RET_ALLOW,
    ],
    ['with a value that is not listed fails', { nr: 16, args: [0xae80, 0x5412] }, EPERM],
    ['with the bits is allowed', { nr: 56, args: [0x003d_0f00] }, SECCOMP_RET_ALLOW],
    ['without the bits fails', { nr: 56, args: [0x11] }, EPERM],
    ['with a forbidden bit fails', { nr: 56, args: [0x1001_0000] }, EPERM],
    ['that fulfils all conditions is allowed', { nr: 302, args: [0, 7, 0, 9] }, SECCOMP_RET_ALLOW],
    ['that fulfils only the first fails', { nr: 302, args: [0, 7, 1, 9] }, EPERM],
    ['whose zero has an upper half fails', { nr: 302, args: [0, 7, 1n << 40n, 9] }, EPERM],
    ['that fulfils only the last fails', { nr: 302, args: [1, 7, 0, 9] }, EPERM],
    ['that is never allowed has its own errno', { nr: 435 }, ENOSYS],
    [
      'whose conditions do not hold has its own errno',
      { nr: 41, args: [16] },
      SECCOMP_RET_ERRNO | errno.EACCES,
    ],
  ] as const)('%s', (_what, data, result) => {
    expect(verdict(rules, data)).toBe(result);
  });

  test('that is refused ends the process, or is made and logged, as chosen', () => {
    expect(verdict(rules, { nr: 59 }, 'kill')).toBe(SECCOMP_RET_KILL_PROCESS);
    expect(verdict(rules, { nr: 59 }, 'log')).toBe(SECCOMP_RET_LOG);
    expect(verdict(rules, { nr: 500 }, 'kill')).toBe(ENOSYS);
    expect(verdict(rules, { nr: 500 }, 'log')).toBe(SECCOMP_RET_LOG);
    expect(verdict(rules, { nr: 435 }, 'kill')).toBe(ENOSYS);
  });

  test('cannot have two rules', () => {
    expect(() => seccompProgram([{ name: 'read' }, { name: 'read' }], 'errno')).toThrow(RangeError);
  });
});

test('a kernel can be made to lack one call', () => {
  const program = lackingProgram('io_uring_setup');
  const result = (nr: number) => runBpf(program, seccompData({ nr }));
  expect([0, 425, 426, 59].map(result)).toEqual([
    SECCOMP_RET_ALLOW,
    ENOSYS,
    SECCOMP_RET_ALLOW,
    SECCOMP_RET_ALLOW,
  ]);
});

test('the program decides as its rules do, for any rules and any call', () => {
  const names = Object.keys(SYSTEM_CALLS) as SystemCallName[];
  const value = fc.oneof(fc.nat(40), fc.integer({ min: 0, max: 0xffff_ffff }));
  const condition: fc.Arbitrary<CallCondition> = fc.oneof(
    fc.record({ arg: fc.nat(5), oneOf: fc.uniqueArray(value, { maxLength: 40 }) }),
    fc.record({ arg: fc.nat(5), bits: fc.constant(0b1010), are: fc.constant(0b1000) }),
    fc.record({ arg: fc.nat(5), isZero: fc.constant(true as const) }),
  );
  const rule = fc.record(
    {
      name: fc.constantFrom(...names),
      when: fc.array(condition, { maxLength: 3 }),
      otherwise: fc.constant(13),
    },
    { requiredKeys: ['name'] },
  );
  const holds = (each: CallCondition, args: readonly bigint[]): boolean => {
    const arg = args[each.arg] as bigint;
    const low = Number(BigInt.asUintN(32, arg));
    if ('oneOf' in each) return each.oneOf.includes(low);
    return 'bits' in each ? (low & each.bits) === each.are : arg === 0n;
  };
  const word = fc.oneof(value.map(BigInt), fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }));
  fc.assert(
    fc.property(
      fc.uniqueArray(rule, { selector: ({ name }) => name, maxLength: 80 }),
      fc.array(word, { minLength: 6, maxLength: 6 }),
      (rules, args) => {
        const program = seccompProgram(rules as readonly CallRule[], 'errno');
        for (let nr = 0; nr < FIRST_YOUNGER; nr++) {
          const own = rules.find(({ name }) => SYSTEM_CALLS[name] === nr);
          const isAllowed = own !== undefined && (own.when ?? []).every((each) => holds(each, args));
          const expected = isAllowed
            ? SECCOMP_RET_ALLOW
            : SECCOMP_RET_ERRNO | (own?.otherwise ?? errno.EPERM);
          expect(runBpf(program, seccompData({ nr, args }))).toBe(expected);
        }
      },
    ),
    { numRuns: 30 },
  );
});

const FIRST_YOUNGER = 450;
