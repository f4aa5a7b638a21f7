import { expect, test } from 'vitest';
import { parseExitCauses } from './exit-causes.js';

const output = `L2-END 3.12
LAB-EXIT port 0x3f80210 20
LAB-EXIT port 0x3fd0211 7
LAB-EXIT port 0xcfc0241 3
LAB-EXIT port 0x12340211 1
LAB-EXIT memory 0xe0010040 40
LAB-EXIT memory 0xfed000f0 2
LAB-EXIT memory 0xc0001234 5
LAB-EXIT memory 0xff001234 4
LAB-EXIT port 0x4e0010 6
LAB-EXIT KVM_EXIT_HLT 0 1
`;

test('exits are summed by the device that a port or an address belongs to, the most frequent first', () => {
  expect([...parseExitCauses(output.replaceAll('\n', '\r\n'))]).toEqual([
    ['PCI ECAM', 40],
    ['COM1', 27],
    ['Super I/O', 6],
    ['BARs and ROMs', 5],
    ['memory at 0xff001000', 4],
    ['PCI ports', 3],
    ['HPET', 2],
    ['port 0x1234', 1],
    ['KVM_EXIT_HLT', 1],
  ]);
});

test('output without an exit is an error', () => {
  expect(() => parseExitCauses('L2-END 3.12\n')).toThrowError(/counted no exit/);
});

test('exits that the kernel lost are an error', () => {
  expect(() => parseExitCauses(`${output}LAB-EXIT lost 3 0\n`)).toThrowError(/too small/);
});
