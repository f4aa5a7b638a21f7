import { execFileSync, spawnSync } from 'node:child_process';
import { closeSync, constants, openSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { isReadable } from '../../sys/eventfd.js';
import * as libc from '../../sys/libc.js';
import type { NetPort } from './port.js';
import { tap } from './tap.js';
import { arp, BROADCAST, icmpEcho, inetChecksum } from './testing/frames.js';
import { isInNamespace, runInNamespace } from './testing/namespace.js';

// The real tun driver, in its own network namespace: this file runs itself again in one.

const HOST = '10.9.0.1';
const ip = (...words: string[]) => execFileSync('ip', words, { stdio: 'pipe' });
const exists = (name: string) => readFileSync('/proc/thread-self/net/dev', 'utf8').includes(`${name}:`);

function up(name: string): void {
  ip('address', 'add', `${HOST}/24`, 'dev', name);
  ip('link', 'set', name, 'up');
}

/** Of a tap's frames, if it has offloads. */
const headerOf = (port: NetPort): Uint8Array => new Uint8Array(port.offloads === undefined ? 0 : 12);
const send = (port: NetPort, ...parts: Uint8Array[]): boolean => port.transmit([headerOf(port), ...parts]);

/** The next frame that `matches`, without its header; the kernel sends others unasked. */
function awaitFrame(port: NetPort, matches: (frame: Uint8Array) => boolean): Uint8Array {
  const buffer = new Uint8Array(2000);
  const nap = new Int32Array(new SharedArrayBuffer(4));
  const header = headerOf(port);
  for (let i = 0; i < 500; i++) {
    const length = port.receive([header, buffer.subarray(0, 14), buffer.subarray(14)]) - header.length;
    if (length <= 0) Atomics.wait(nap, 0, 0, 10);
    else if (matches(buffer.subarray(0, length))) return buffer.slice(0, length);
  }
  throw new Error('the frame did not arrive');
}

/** Sends a datagram of 1000 bytes to the guest. */
const SEND = `
const socket = require('node:dgram').createSocket('udp4');
socket.send(new Uint8Array(1000).fill(7), 9, '10.9.0.2', () => socket.close());
`;

const isArpReply = (frame: Uint8Array) => frame[12] === 8 && frame[13] === 6 && frame[21] === 2;
const isIcmp = (frame: Uint8Array) => frame[12] === 8 && frame[13] === 0 && frame[23] === 1;
const guest = { senderIp: '10.9.0.2', source: '10.9.0.2', destination: HOST, targetIp: HOST };

function realDriver(): void {
  test('the host answers ARP and a ping of the largest size over it', () => {
    using port = tap.open('tsv0');
    expect(port.fd).toBeGreaterThan(2);
    up('tsv0');
    const request = arp(guest);
    expect(send(port, request.subarray(0, 5), request.subarray(5, 5), request.subarray(5))).toBe(true);
    const reply = awaitFrame(port, isArpReply);
    expect(reply).toHaveLength(42);
    const to = Array.from(reply.subarray(6, 12), (byte) => byte.toString(16).padStart(2, '0')).join(':');

    const data = Uint8Array.from({ length: 1472 }, (_, i) => i & 255);
    const ping = icmpEcho(data, { ...guest, to });
    expect(send(port, ping)).toBe(true);
    const pong = awaitFrame(port, isIcmp);
    expect(pong.slice(42)).toEqual(data);
    expect(inetChecksum(pong.subarray(34))).toBe(0);
    expect(port.counters).toMatchObject({
      txFrames: 2,
      txBytes: request.length + ping.length,
      txDropped: 0,
      rxDropped: 0,
    });
  });

  test('a frame longer than the parts is dropped and counted, and the next one arrives intact', () => {
    using port = tap.open('tsv1');
    up('tsv1');
    send(port, arp(guest));
    awaitFrame(port, isArpReply);
    const before = port.counters.rxDropped;
    send(port, arp(guest));
    const short = [new Uint8Array(20), new Uint8Array(21)];
    let length = 0;
    while (length === 0) length = port.receive(short);
    expect(length).toBe(-1);
    expect(port.counters.rxDropped).toBe(before + 1);
    send(port, arp(guest));
    expect(awaitFrame(port, isArpReply)).toHaveLength(42);
  });

  test('a second open of the same tap is EBUSY', () => {
    using _port = tap.open('tsv2');
    expect(() => tap.open('tsv2')).toThrow(expect.objectContaining({ code: 'EBUSY', target: 'tap tsv2' }));
  });

  test('an interface that is not a tap is EINVAL', () => {
    expect(() => tap.open('lo')).toThrow(expect.objectContaining({ code: 'EINVAL', target: 'tap lo' }));
  });

  test('while the link is down, or the frame has no header, a frame is dropped', () => {
    using port = tap.open('tsv3');
    expect(send(port, arp({ to: BROADCAST }))).toBe(false);
    up('tsv3');
    expect(send(port, new Uint8Array(5))).toBe(false);
    expect(port.transmit([])).toBe(false);
    expect(port.counters).toMatchObject({ txFrames: 0, txDropped: 3 });
  });

  test('an existing interface is kept; one created by opening is removed with the port', () => {
    ip('tuntap', 'add', 'dev', 'tsv4', 'mode', 'tap');
    for (const name of ['tsv4', 'tsv5']) {
      using _port = tap.open(name);
      expect(exists(name)).toBe(true);
    }
    expect([exists('tsv4'), exists('tsv5')]).toEqual([true, false]);
    ip('link', 'delete', 'tsv4');
  });

  /** As a broker would: opens the driver and attaches an interface. */
  function opened(name: string, flags: number): number {
    const fd = openSync('/dev/net/tun', constants.O_RDWR);
    const ifreq = new Uint8Array(40);
    ifreq.set(Buffer.from(name));
    new DataView(ifreq.buffer).setUint16(16, flags, true);
    expect(libc.ioctlPtr(fd, 0x4004_54ca, ifreq)).toBe(0);
    return fd;
  }

  test.each([
    ['without headers', 0x1002],
    ['with headers', 0x5002],
  ])('a descriptor of a tap %s carries frames, and survives the port', (_what, flags) => {
    const fd = opened('tsv8', flags);
    up('tsv8');
    for (let turn = 0; turn < 2; turn++) {
      using port = tap.open(`fd=${fd}`);
      expect(port.fd).not.toBe(fd);
      expect(port.receive([new Uint8Array(0)])).toBeLessThanOrEqual(0); // does not block
      send(port, arp(guest));
      expect(awaitFrame(port, isArpReply)).toHaveLength(42);
      send(port, arp(guest));
      while (!isReadable(port.fd));
      const { rxDropped } = port.counters;
      expect(port.receive([new Uint8Array(0)]), 'no room, not even for its header').toBe(-1);
      expect(port.counters.rxDropped).toBe(rxDropped + 1);
      expect(() => tap.open(`fd=${fd}`)).toThrow(expect.objectContaining({ code: 'EBUSY' }));
    }
    closeSync(fd);
    expect(exists('tsv8')).toBe(false);
  });

  test.each([
    ['a tun', () => opened('tsv9', 0x1001), 'EINVAL', 'without Ethernet'],
    ['no interface', () => openSync('/dev/net/tun', constants.O_RDWR), 'EBADFD', 'TUNSETIFF first'],
    ['a file', () => openSync('/dev/null', constants.O_RDWR), 'EINVAL', 'no tap'],
  ] as const)('a descriptor of %s is refused with a hint', (_what, open, code, hint) => {
    const fd = open();
    expect(() => tap.open(`fd=${fd}`)).toThrow(
      expect.objectContaining({ code, target: `tap fd ${fd}`, hint: expect.stringContaining(hint) }),
    );
    closeSync(fd); // it is still its giver's
  });

  /** What QEMU and others leave behind: TUN_F_CSUM, TSO4, TSO6, a header of 12 bytes, a small buffer, a filter. */
  function leaveBehind(name: string): void {
    const fd = openSync('/dev/net/tun', constants.O_RDWR | constants.O_NONBLOCK);
    const ifreq = new Uint8Array(40);
    ifreq.set(Buffer.from(name));
    ifreq.set([0x02, 0x50], 16); // IFF_TAP, IFF_NO_PI, IFF_VNET_HDR
    const int = (value: number) => new Uint8Array(Int32Array.of(value).buffer);
    const strangers = Uint8Array.of(0, 0, 1, 0, 2, 2, 2, 2, 2, 2);
    for (const [request, argument] of [
      [0x4004_54ca, ifreq],
      [0x4004_54cb, 1], // TUNSETPERSIST
      [0x4004_54d8, int(12)],
      [0x4004_54d0, 7],
      [0x4004_54d4, int(1)],
      [0x4004_54d1, strangers],
    ] as const) {
      const result =
        typeof argument === 'number'
          ? libc.ioctlValue(fd, request, argument)
          : libc.ioctlPtr(fd, request, argument);
      expect(result, request.toString(16)).toBeGreaterThanOrEqual(0);
    }
    closeSync(fd);
  }

  test('what the last user of a tap left (offloads, header, filter, buffer) is gone: packets have their checksums', () => {
    leaveBehind('tsv7');
    using port = tap.open('tsv7');
    up('tsv7');
    // Unicast to a guest that the filter does not know.
    send(port, arp(guest));
    expect(awaitFrame(port, isArpReply)).toHaveLength(42);
    // The stack leaves the checksum to an interface with offloads.
    ip('neighbour', 'replace', '10.9.0.2', 'lladdr', '52:54:00:12:34:56', 'dev', 'tsv7');
    const socket = spawnSync(process.execPath, ['-e', SEND], { encoding: 'utf8' });
    expect(socket.stderr).toBe('');
    const datagram = awaitFrame(port, (frame) => frame[12] === 8 && frame[13] === 0 && frame[23] === 17);
    const pseudo = [...datagram.subarray(26, 34), 0, 17, ...datagram.subarray(38, 40)];
    expect(inetChecksum(Uint8Array.from([...pseudo, ...datagram.subarray(34)]))).toBe(0);
    ip('link', 'delete', 'tsv7');
  });

  test('an interface deleted under the port is an error on receive and a drop on transmit', () => {
    using port = tap.open('tsv6');
    up('tsv6');
    ip('link', 'delete', 'tsv6');
    expect(() => port.receive([new Uint8Array(2000)])).toThrow(
      expect.objectContaining({ call: 'readv', target: 'tap tsv6' }),
    );
    expect(send(port, arp())).toBe(false);
  });
}

if (isInNamespace()) describe('with the real driver', realDriver);
else {
  test('a tap works with the real driver', (context) => {
    runInNamespace(context, fileURLToPath(import.meta.url));
  });
}
