import fc from 'fast-check';
import { expect, test } from 'vitest';
import { BpfProgram } from './bpf.js';
import { runBpf, seccompData } from './testing/bpf-interpreter.js';

const run = (program: BpfProgram, nr: number): number => runBpf(program.encode(), seccompData({ nr }));

test('an instruction is encoded as struct sock_filter', () => {
  const program = new BpfProgram().load(4).when('jeq', 0xc000003e, 'x').ret(1).label('x').ret(0x7fff_0000);
  expect(Buffer.from(program.encode()).toString('hex').match(/.{16}/g)).toEqual([
    '2000000004000000',
    '150001003e0000c0',
    '0600000001000000',
    '060000000000ff7f',
  ]);
});

test('a jump reaches its label, however far it is', () => {
  fc.assert(
    fc.property(fc.nat(700), fc.nat(700), (before, after) => {
      const program = new BpfProgram().load(0).when('jge', 10, 'big').when('jset', 1, 'odd').goto('rest');
      for (let i = 0; i < before; i++) program.load(4);
      program.label('odd').ret(1);
      for (let i = 0; i < after; i++) program.load(4);
      program.label('big').ret(2).label('rest').ret(3);
      expect([3, 4, 9, 10, 0x8000_0000].map((nr) => run(program, nr))).toEqual([1, 3, 1, 2, 2]);
    }),
  );
});

test('a branch that grows may put an earlier one out of reach, and that one grows, too', () => {
  const program = new BpfProgram().load(0).when('jeq', 1, 'first');
  for (let i = 0; i < 254; i++) program.when('jeq', 1000 + i, 'last');
  program.label('first').ret(1);
  for (let i = 0; i < 300; i++) program.load(0);
  program.label('last').ret(2);
  expect([1, 1000, 1253].map((nr) => run(program, nr))).toEqual([1, 2, 2]);
});

test('many branches grow in one turn, and those behind them keep their labels', () => {
  const program = new BpfProgram().load(0);
  for (let i = 0; i < 300; i++) program.when('jeq', 1000 + i, 'far');
  program.when('jeq', 7, 'near').label('near').goto('end');
  for (let i = 0; i < 300; i++) program.load(0);
  program.label('far').ret(1).label('end').ret(2);
  expect([1000, 1299, 7, 8].map((nr) => run(program, nr))).toEqual([1, 1, 2, 2]);
});

test('a mask keeps its bits only', () => {
  const program = new BpfProgram().load(0).and(0xf0).when('jeq', 0x30, 'x').ret(0).label('x').ret(1);
  expect([0x3f, 0x4f].map((nr) => run(program, nr))).toEqual([1, 0]);
});

test.each([
  ['no label', new BpfProgram().goto('x'), /no label x/],
  ['a label twice', new BpfProgram().goto('x').label('x').label('x').ret(0), /x is given twice/],
  ['a label behind its jump', new BpfProgram().label('x').goto('x'), /behind its jump/],
] as const)('%s is refused', (_what, program, message) => {
  expect(() => program.encode()).toThrow(message);
});

test('a program longer than the kernel takes is refused', () => {
  const program = new BpfProgram();
  for (let i = 0; i < 4096; i++) program.load(0);
  expect(program.encode()).toHaveLength(8 * 4096);
  expect(() => program.ret(0).encode()).toThrow('4097 instructions');
});
