import { expect, test } from 'vitest';
import { RangeBus } from '../assign/bus.js';
import { createPlatform } from './platform.js';

function machine() {
  const seen: string[] = [];
  const platform = createPlatform({
    nowNs: () => 0n,
    nowMs: () => 0,
    irqLine: (gsi, level) => seen.push(`GSI ${gsi} ${level ? 'up' : 'down'}`),
    powerOff: () => seen.push('off'),
    reset: () => seen.push('reset'),
    eject: (slot) => seen.push(`eject ${slot}`),
    report: (slot, event, status) => seen.push(`report ${slot} ${event} ${status}`),
  });
  const pio = new RangeBus('pio');
  for (const { base, count, device } of platform.ranges) pio.add(BigInt(base), BigInt(count), device);
  return { platform, pio, seen };
}

test('no two devices overlap, and leave port 0x61 to KVM’s timer', () => {
  const { pio } = machine();
  const read = (port: number) => {
    const byte = Uint8Array.of(0xff);
    pio.read(port, byte);
    return byte[0];
  };
  expect(read(0x61)).toBe(0xff);
  expect(read(0x64)).toBe(0x14);
});

test('shutdown, both resets and hotplug reach the machine', () => {
  const { platform, pio, seen } = machine();
  pio.write(0x605, Uint8Array.of(0x34));
  pio.write(0x60c, Uint8Array.of(1));
  pio.write(0x64, Uint8Array.of(0xfe));
  pio.write(0x612, Uint8Array.of(2));
  platform.announce(3);
  const slots = new Uint8Array(4);
  pio.read(0x620, slots);
  pio.write(0x628, slots);
  platform.requestUnplug(3);
  platform.withdrawUnplug(3);
  pio.read(0x624, slots);
  expect([...slots]).toEqual([0, 0, 0, 0]);
  pio.write(0x62c, Uint8Array.of(3, 3, 0, 0x80));
  pio.write(0x610, Uint8Array.of(2));
  platform.pressPowerButton();
  expect(seen).toEqual(['off', 'reset', 'reset', 'GSI 9 up', 'eject 3', 'report 3 3 128', 'GSI 9 down']);
});

test('a new generation ID is an event that the guest hears once it has enabled it', () => {
  const { platform, pio, seen } = machine();
  platform.announceGeneration();
  expect(seen).toEqual([]);
  pio.write(0x612, Uint8Array.of(4));
  expect(seen).toEqual(['GSI 9 up']);
  pio.write(0x610, Uint8Array.of(4));
  expect(seen).toEqual(['GSI 9 up', 'GSI 9 down']);
});
