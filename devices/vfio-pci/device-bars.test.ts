import { describe, expect, test } from 'vitest';
import { Fd } from '../../sys/fd.js';
import { Scope } from '../../sys/scope.js';
import { trace } from '../../sys/trace.js';
import { fakeEnvironment, recordTrace } from '../testing/fake-ports.js';
import { AT0, AT2, AT4, BAR0, BAR2, BAR4, COMMAND, openNic, place, shown } from './nic-bench.js';
import { nicOffsets } from './scripted-nic.js';

describe('BARs', () => {
  test('BARs are hidden until decoding is enabled; their slots, traps and doorbells come and go together', () => {
    using scope = new Scope();
    const bell = scope.own(Fd.eventfd());
    const options = { ioFds: [{ offset: 0x2800, size: 2, fd: bell.number, datamatch: 1n }] };
    const bench = openNic(scope, options);
    const { device } = bench;
    place(bench);
    expect(shown(bench)).toEqual([]);
    device.configWrite(COMMAND, 2, 0x2);
    const memory = [
      'mmio doorbell e0102800+2',
      'mmio e0000000+8000',
      'mmio e0100000+4000',
      'slot e0000000+8000',
      'slot e0100000+2000',
    ];
    expect(shown(bench)).toEqual(memory);
    device.configWrite(COMMAND, 1, 0x3);
    expect(shown(bench)).toEqual([...memory.slice(0, 3), 'pio c100+20', ...memory.slice(3)]);
    device.configWrite(COMMAND, 2, 0x1);
    expect(shown(bench)).toEqual(['pio c100+20']);
    device.configWrite(COMMAND, 2, 0);
    expect(shown(bench)).toEqual([]);
  });

  test('a BAR that moves above 4 GiB takes its slot, trap and doorbell along', () => {
    using scope = new Scope();
    const bell = scope.own(Fd.eventfd());
    const bench = openNic(scope, { ioFds: [{ offset: 0x3800, size: 4, fd: bell.number }] });
    const { device } = bench;
    place(bench);
    device.configWrite(COMMAND, 2, 0x2);
    device.configWrite(BAR4 + 4, 4, 0x80);
    // The upper half alone has moved it already, as on hardware.
    expect(shown(bench)).toContain('slot 80e0100000+2000');
    device.configWrite(BAR4, 4, 0x00200000);
    expect(shown(bench)).toEqual([
      'mmio 8000200000+4000',
      'mmio doorbell 8000203800+0',
      'mmio e0000000+8000',
      'slot 8000200000+2000',
      'slot e0000000+8000',
    ]);
  });

  test('a doorbell within mapped memory is left to the memory; one next to it is registered', () => {
    using scope = new Scope();
    const bell = scope.own(Fd.eventfd());
    // The page of the MSI-X table is trapped, 0x2000 to 0x2fff, and with the PBA's also up to 0x3fff.
    const ioFds = [0x1ffc, 0x2000, 0x3ffc].map((offset) => ({ offset, size: 4, fd: bell.number }));
    const bench = openNic(scope, { ioFds });
    place(bench);
    bench.device.configWrite(COMMAND, 2, 0x2);
    const { bells } = bench.environment.doorbells;
    expect(bells.map(({ address }) => address - BigInt(AT4))).toEqual([0x2000n, 0x3ffcn]);
  });

  test('decoding is shown after the device enables it, and hidden before it disables it', () => {
    using scope = new Scope();
    const bench = openNic(scope);
    const { device, nic, environment } = bench;
    place(bench);
    const slotsAtWrite: number[] = [];
    const write = nic.write.bind(nic);
    nic.write = (offset, data) => {
      slotsAtWrite.push(environment.memory.slots.length);
      return write(offset, data);
    };
    device.configWrite(COMMAND, 2, 0x2);
    device.configWrite(COMMAND, 2, 0x6);
    device.configWrite(COMMAND, 2, 0x0);
    expect(slotsAtWrite).toEqual([0, 2, 0]);
  });

  test('ports are hidden before the device stops decoding them, and memory with them or without', () => {
    for (const [from, to, shownAtWrite] of [
      [0x3, 0x2, [2, 0]],
      [0x3, 0x1, [0, 1]],
      [0x3, 0x0, [0, 0]],
      [0x1, 0x2, [0, 0]],
      [0x3, 0x7, [2, 1]],
    ] as const) {
      using scope = new Scope();
      const bench = openNic(scope);
      const { device, nic, environment } = bench;
      place(bench);
      device.configWrite(COMMAND, 2, from);
      const write = nic.write.bind(nic);
      let seen: number[] = [];
      nic.write = (offset, data) => {
        seen = [environment.mmio.ranges.length, environment.pio.ranges.length];
        return write(offset, data);
      };
      device.configWrite(COMMAND, 2, to);
      expect(seen, `${from} to ${to}`).toEqual(shownAtWrite);
      expect([environment.mmio.ranges.length, environment.pio.ranges.length]).toEqual([
        (to & 2) === 0 ? 0 : 2,
        to & 1,
      ]);
    }
  });

  test('in a power state other than D0, no BAR is decoded', () => {
    using scope = new Scope();
    const bench = openNic(scope);
    const { device, environment } = bench;
    place(bench);
    device.configWrite(COMMAND, 2, 0x3);
    const before = shown(bench);
    device.configWrite(nicOffsets.pm + 4, 2, 0x0003);
    expect(shown(bench)).toEqual([]);
    expect(device.configRead(COMMAND, 2)).toBe(0x3);
    device.configWrite(nicOffsets.pm + 4, 2, 0x0000);
    expect(shown(bench)).toEqual(before);
    expect(environment.mmio.ranges).toHaveLength(2);
  });

  test('a BAR outside the windows is not decoded, and is reported as guest misuse', () => {
    using scope = new Scope();
    using misuse = recordTrace(trace.guestMisuse);
    const bench = openNic(scope);
    const { device } = bench;
    place(bench);
    device.configWrite(BAR0, 4, 0x1000_0000);
    device.configWrite(BAR2, 4, 0x2000);
    device.configWrite(COMMAND, 2, 0x3);
    device.configWrite(COMMAND, 2, 0x7);
    expect(shown(bench)).toEqual(['mmio e0100000+4000', 'slot e0100000+2000']);
    expect(misuse.events.map(({ text }) => text)).toEqual([
      'BAR0 at 0x10000000 is not decoded: outside the BAR windows',
      'BAR2 at 0x2000 is not decoded: outside the BAR windows',
    ]);
  });

  test('sizing with decoding on hides the BAR meanwhile and is not reported as misuse', () => {
    using scope = new Scope();
    using misuse = recordTrace(trace.guestMisuse);
    const bench = openNic(scope);
    const { device } = bench;
    place(bench);
    device.configWrite(COMMAND, 2, 0x2);
    device.configWrite(BAR0, 4, 0xffffffff);
    expect(device.configRead(BAR0, 4)).toBe(0xffff8000);
    expect(shown(bench)).toEqual(['mmio e0100000+4000', 'slot e0100000+2000']);
    device.configWrite(BAR0, 4, AT0);
    expect(shown(bench)).toHaveLength(4);
    expect(misuse.events).toEqual([]);
  });

  test('of two overlapping BARs the first is decoded, and the second when the first moves away', () => {
    using scope = new Scope();
    using misuse = recordTrace(trace.guestMisuse);
    const bench = openNic(scope);
    const { device } = bench;
    place(bench);
    device.configWrite(COMMAND, 2, 0x2);
    device.configWrite(BAR0, 4, AT4);
    expect(shown(bench)).toEqual(['mmio e0100000+8000', 'slot e0100000+8000']);
    expect(misuse.events.map(({ text }) => text)).toEqual([
      'BAR4 at 0xe0100000 is not decoded: overlaps BAR0 of the same device',
    ]);
    device.configWrite(BAR0, 4, AT0);
    expect(shown(bench)).toHaveLength(4);
  });

  test("a BAR that overlaps another device's is not decoded at all, not even the part that would not collide", () => {
    using scope = new Scope();
    using misuse = recordTrace(trace.guestMisuse);
    const environment = fakeEnvironment();
    const other = openNic(scope, {}, environment);
    place(other);
    other.device.configWrite(COMMAND, 2, 0x2);
    const before = shown(other);
    const bench = openNic(scope, {}, environment);
    place(bench);
    bench.device.configWrite(BAR0, 4, AT0 + 0x0200_0000);
    bench.device.configWrite(BAR4, 4, AT0 + 0x4000);
    bench.device.configWrite(COMMAND, 2, 0x2);
    expect(shown(bench)).toEqual([...before, 'mmio e2000000+8000', 'slot e2000000+8000'].sort());
    expect(misuse.events[0]?.text).toMatch(/^BAR4 at 0xe0004000 is not decoded: .* overlaps nic BAR0/);
  });

  test('a BAR falls back to trapping if the host provides no slot', () => {
    using scope = new Scope();
    const bench = openNic(scope);
    const { device, environment, nic } = bench;
    place(bench);
    environment.memory.failure = 'ENOSPC';
    device.configWrite(COMMAND, 2, 0x2);
    expect(shown(bench)).toEqual(['mmio e0000000+8000', 'mmio e0100000+4000']);
    nic.region(0).set([1, 2, 3, 4], 0x20);
    expect(environment.mmio.read32(BigInt(AT0 + 0x20))).toBe(0x04030201);
  });

  test('trapped accesses reach the region at the right offset, at any width', () => {
    using scope = new Scope();
    const bench = openNic(scope);
    const { device, environment, nic } = bench;
    place(bench);
    device.configWrite(COMMAND, 2, 0x3);
    environment.pio.write(BigInt(AT2 + 5), new Uint8Array([0xab]));
    expect(nic.region(2)[5]).toBe(0xab);
    const quad = new Uint8Array([1, 2, 3, 4, 5, 6, 7, 8]);
    environment.mmio.write(BigInt(AT4 + 0x2400), quad);
    expect(nic.region(4).subarray(0x2400, 0x2408)).toEqual(quad);
    expect(environment.mmio.read(BigInt(AT4 + 0x2400), 8)).toEqual(quad);
  });

  test('a failed access reads all-ones and notes why', () => {
    using scope = new Scope();
    const bench = openNic(scope);
    const { device, environment, nic } = bench;
    place(bench);
    device.configWrite(COMMAND, 2, 0x3);
    using notes = recordTrace(trace.vfio);
    nic.failures.set('read', 'EIO');
    nic.failures.set('write', 'EIO');
    expect(environment.pio.read(BigInt(AT2), 2)).toEqual(new Uint8Array([0xff, 0xff]));
    environment.pio.write(BigInt(AT2), new Uint8Array([1]));
    expect(notes.events.map(({ text }) => text)).toEqual([
      'read of 2 bytes at 0x0 of region 2: read on scripted device: EIO',
      'write of 1 bytes at 0x0 of region 2: write on scripted device: EIO',
    ]);
  });

  test('the part past the end of a region whose size is no power of two reads all-ones', () => {
    using scope = new Scope();
    const bench = openNic(scope, { init: { regions: { 0: { size: 0x1802 } } } });
    const { device, environment, nic } = bench;
    device.configWrite(BAR0, 4, AT0);
    device.configWrite(COMMAND, 2, 0x2);
    nic.calls.length = 0;
    expect(environment.mmio.read(BigInt(AT0 + 0x1800), 4)).toEqual(new Uint8Array([0, 0, 0xff, 0xff]));
    expect(environment.mmio.read(BigInt(AT0 + 0x1ffc), 4)).toEqual(new Uint8Array(4).fill(0xff));
    environment.mmio.write(BigInt(AT0 + 0x1ffc), new Uint8Array(4));
    expect(nic.calls).toEqual([{ call: 'read', region: 0, at: 0x1800, bytes: 2 }]);
  });

  test('trapped accesses are published while the channel has subscribers', () => {
    using scope = new Scope();
    const bench = openNic(scope);
    const { device, environment } = bench;
    place(bench);
    device.configWrite(COMMAND, 2, 0x3);
    using accesses = recordTrace(trace.region);
    environment.pio.write(BigInt(AT2 + 4), new Uint8Array([0x34, 0x12]));
    expect(accesses.events).toEqual([
      { device: 'nic', region: 2, address: 4, bytes: 2, isWrite: true, value: 0x1234n },
    ]);
  });
});
