import { expect, test } from 'vitest';
import { responder } from './responder.js';
import { parseResponderOptions } from './responder-options.js';

test('without options, the MTU is 1500 and no reply is faulty', () => {
  expect(parseResponderOptions('')).toEqual({ mtu: 1500, faults: { corrupt: 0, drop: 0 } });
});

test('options may come in any order', () => {
  const wanted = { mtu: 9000, faults: { corrupt: 3, drop: 5 } };
  expect(parseResponderOptions('corrupt=3,mtu=9000,drop=5')).toEqual(wanted);
  expect(parseResponderOptions('drop=5,corrupt=3,mtu=9000')).toEqual(wanted);
});

test.each([
  ['speed=3', 'unknown option "speed=3": expected corrupt=, drop=, mtu='],
  ['toString=1', 'unknown option "toString=1": expected corrupt=, drop=, mtu='],
  ['mtu=1500,', 'unknown option "": expected corrupt=, drop=, mtu='],
  ['corrupt', '"corrupt": corrupt takes a whole number from 1 to 4294967295'],
  ['corrupt=', '"corrupt=": corrupt takes a whole number from 1 to 4294967295'],
  ['drop=0', '"drop=0": drop takes a whole number from 1 to 4294967295'],
  ['drop=0x10', '"drop=0x10": drop takes a whole number from 1 to 4294967295'],
  ['drop=1=2', '"drop=1=2": drop takes a whole number from 1 to 4294967295'],
  ['mtu=575', '"mtu=575": mtu takes a whole number from 576 to 9000'],
  ['mtu=9001', '"mtu=9001": mtu takes a whole number from 576 to 9000'],
  ['mtu=1e3', '"mtu=1e3": mtu takes a whole number from 576 to 9000'],
  ['mtu=1500,mtu=1500', 'mtu is given twice'],
  [
    'x,drop=-1',
    'unknown option "x": expected corrupt=, drop=, mtu=; "drop=-1": drop takes a whole number from 1 to 4294967295',
  ],
])('%j is rejected with the reason', (text, problem) => {
  expect(responder.validate(text)).toBe(problem);
  expect(() => responder.open(text)).toThrow(TypeError);
});

test('every text that validate() accepts can be opened', () => {
  expect(responder.validate('corrupt=1,mtu=576')).toBeUndefined();
  using port = responder.open('corrupt=1,mtu=576');
  expect(port.fd).toBe(-1);
  expect(port.pending()).toBe(0);
});
