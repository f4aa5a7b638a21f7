import { describe, expect, test } from 'vitest';
import { addressVariable } from './devices.js';
import { clientProperties, parseServed, servedAddresses, servedArguments } from './served.js';

const socketOf = (name: string) => `/run/${name}.sock`;

describe('served devices', () => {
  test('the lab’s own options do not reach the server; the second of a type has a number', () => {
    expect(
      parseServed([
        'testcard,vectors=16,name=big',
        'testcard,port=off,reset=none',
        'virtio-net',
        'virtio-net',
      ]),
    ).toEqual([
      { name: 'big', device: 'testcard,vectors=16', isBehindPort: true },
      { name: 'testcard-2', device: 'testcard,reset=none', isBehindPort: false },
      { name: 'virtio-net', device: 'virtio-net', isBehindPort: true },
      { name: 'virtio-net-2', device: 'virtio-net', isBehindPort: true },
    ]);
  });

  test('with=NAME is the next function of that device’s slot, behind its port or without one', () => {
    const served = parseServed([
      'testcard,name=a',
      'testcard',
      'testcard,name=b,with=a',
      'testcard,name=flat,port=off',
      'testcard,name=c,with=a',
      'testcard,name=d,with=flat',
    ]);
    expect(Object.fromEntries(servedAddresses(served, []))).toEqual({
      a: '0000:01:00.0',
      'testcard-2': '0000:02:00.0',
      b: '0000:01:00.1',
      flat: '0000:00:1a.0',
      c: '0000:01:00.2',
      d: '0000:00:1a.1',
    });
    const properties = clientProperties(served, socketOf);
    const places = ['a', 'b', 'c', 'flat', 'd', 'testcard-2'].map((name) => {
      const { bus, addr, multifunction } = properties.get(name) as Record<string, unknown>;
      return [bus, addr, multifunction];
    });
    expect(places).toEqual([
      ['a-port', '0.0', true],
      ['a-port', '0.1', true],
      ['a-port', '0.2', true],
      ['pcie.0', '1a.0', true],
      ['pcie.0', '1a.1', true],
      ['testcard-2-port', undefined, undefined],
    ]);
    expect(served.some(({ device }) => device.includes('with'))).toBe(false);
    const ports = servedArguments(served, socketOf).filter((word) => word.startsWith('pcie-root-port'));
    expect(ports).toHaveLength(2);
  });

  test.each([
    [['testcard,with=a'], /with=a\n {2}hint: the name of a device before it/],
    [['testcard,name=a', 'testcard,name=b,with=a', 'testcard,with=b'], /has function 0/],
    [['testcard,name=a', ...Array(8).fill('testcard,with=a')], /a has 8 functions already/],
    [['testcard,name=A B'], /'A B' is no name/],
    [['testcard,name=../x'], /is no name/],
    [['testcard', 'virtio-net,name=testcard'], /two of the name testcard/],
    [['testcard,port=1'], /port=1\n {2}hint: on or off/],
    [Array(9).fill('testcard'), /room for 8 devices, and 5 with port=off/],
    [Array(6).fill('testcard,port=off'), /room for 8/],
  ])('%j is refused', (texts, problem) => {
    expect(() => parseServed(texts as string[])).toThrow(problem);
  });

  test('buses behind ports are counted after those of the other devices', () => {
    const served = parseServed(['testcard', 'testcard,port=off', 'mtty-2', 'testcard,port=off']);
    expect(Object.fromEntries(servedAddresses(served, ['igb', 'pair', 'pair-1']))).toEqual({
      testcard: '0000:03:00.0',
      'testcard-2': '0000:00:1a.0',
      'mtty-2': '0000:04:00.0',
      'testcard-3': '0000:00:1b.0',
    });
    expect(addressVariable('mtty-2')).toBe('LAB_MTTY_2');
  });

  test('QEMU gets the ports of one slot, and a client for each device', () => {
    const served = parseServed(['testcard', 'mtty-2', 'testcard,port=off']);
    const [first, second, ...clients] = servedArguments(served, socketOf).filter(
      (word) => word !== '-device',
    );
    expect(first).toBe('pcie-root-port,id=testcard-port,chassis=64,bus=pcie.0,addr=19.0,multifunction=on');
    expect(second).toBe('pcie-root-port,id=mtty-2-port,chassis=65,bus=pcie.0,addr=19.1,multifunction=on');
    expect(clients.map((text) => JSON.parse(text))).toEqual([...clientProperties(served, socketOf).values()]);
    expect(clientProperties(served, socketOf).get('testcard-2')).toEqual({
      driver: 'vfio-user-pci',
      id: 'testcard-2',
      bus: 'pcie.0',
      addr: '0x1a',
      socket: { path: '/run/testcard-2.sock', type: 'unix' },
    });
  });
});
