import { describe, expect, test } from 'vitest';
import { Fd } from '../../sys/fd.js';
import { Scope } from '../../sys/scope.js';
import { trace } from '../../sys/trace.js';
import {
  type DeviceFile,
  type DeviceInfo,
  VFIO_PCI_ERR_IRQ_INDEX,
  VFIO_PCI_REQ_IRQ_INDEX,
  VFIO_PCI_ROM_REGION_INDEX,
} from '../../vfio/uapi.js';
import { type FakeEnvironment, fakeEnvironment, recordTrace } from '../testing/fake-ports.js';
import type { ScriptedDevice } from '../testing/scripted-device.js';
import { VfioPciDevice } from './device.js';
import { createScriptedNic, nicMsix, nicOffsets, type ScriptedNicOptions } from './scripted-nic.js';

interface Bench {
  readonly nic: ScriptedDevice;
  readonly device: VfioPciDevice;
  readonly environment: FakeEnvironment;
}

function openNic(scope: Scope, options: ScriptedNicOptions = {}, environment = fakeEnvironment()): Bench {
  const nic = scope.own(createScriptedNic(options));
  return { nic, device: scope.own(VfioPciDevice.open('nic', nic, environment)), environment };
}

const COMMAND = 0x04;
const BAR0 = 0x10;
const BAR2 = 0x18;
const BAR4 = 0x20;
const ROM = 0x30;
const AT0 = 0xe0000000;
const AT2 = 0xc100;
const AT4 = 0xe0100000;

function place({ device }: Bench): void {
  device.configWrite(BAR0, 4, AT0);
  device.configWrite(BAR2, 4, AT2);
  device.configWrite(BAR4, 4, AT4);
  device.configWrite(BAR4 + 4, 4, 0);
}

/** What the guest sees of the device at which address: `mmio e0000000+8000`, likewise slots and doorbells. */
function shown({ environment: { mmio, pio, memory, doorbells } }: Bench): string[] {
  const range = (what: string, base: bigint, bytes: bigint | number): string =>
    `${what} ${base.toString(16)}+${bytes.toString(16)}`;
  return [
    ...mmio.ranges.map(({ base, bytes }) => range('mmio', base, bytes)),
    ...pio.ranges.map(({ base, bytes }) => range('pio', base, bytes)),
    ...memory.slots.map(({ gpa, bytes }) => range('slot', gpa, bytes)),
    ...doorbells.bells.map(({ kind, address, bytes }) => range(`${kind} doorbell`, address, bytes)),
  ].sort();
}

describe('attaching', () => {
  test('every step is noted in plain text', () => {
    using scope = new Scope();
    using notes = recordTrace(trace.vfio);
    const bell = scope.own(Fd.eventfd());
    openNic(scope, { ioFds: [{ offset: 0x1000, size: 2, fd: bell.number }] });
    expect(notes.events.map(({ what, device, text }) => `${device} ${what}: ${text}`)).toEqual([
      'nic open: 9 regions, 5 interrupt kinds',
      'nic reset: the device is reset',
      'nic config: capability at 0x154 hidden: ARI: the guest numbers functions itself',
      'nic config: capability at 0x160 hidden: SR-IOV: virtual functions belong to the host',
      'nic bar: BAR0 32 KiB 32-bit: 32 KiB mapped',
      'nic bar: BAR2 32 bytes I/O: 32 bytes trapped',
      'nic bar: BAR4 16 KiB 64-bit prefetchable: 8 KiB mapped, 8 KiB trapped',
      'nic rom: ROM 64 KiB expansion ROM: read once, when the guest enables it',
      'nic err: error notification wired',
      'nic req: device request notification wired',
    ]);
  });

  test('after open the device is reset, with decoding and bus mastering off and no interrupt but its pin', () => {
    using scope = new Scope();
    const { nic, device } = openNic(scope);
    expect(nic.calls.filter(({ call }) => call === 'reset')).toHaveLength(1);
    expect(nic.config[COMMAND]).toBe(0);
    expect(nic.wired()).toEqual({ [VFIO_PCI_ERR_IRQ_INDEX]: [0], [VFIO_PCI_REQ_IRQ_INDEX]: [0] });
    expect(device.interruptMode).toBe('none'); // the pin is not routed
    expect(device.configRead(0x3d, 1)).toBe(0);
  });

  test('a device is moved to D0 before its reset', () => {
    using scope = new Scope();
    const config = createScriptedNic().config.slice();
    config[nicOffsets.pm + 4] = 3;
    const { nic } = openNic(scope, { init: { config } });
    expect(nic.config[nicOffsets.pm + 4]).toBe(0);
  });

  test('a device without a reset is used, with a note', () => {
    for (const refuse of [true, false]) {
      using scope = new Scope();
      using notes = recordTrace(trace.vfio);
      const nic = scope.own(createScriptedNic({ init: { hasNoReset: refuse } }));
      if (!refuse) nic.failures.set('reset', 'ENOTTY');
      scope.own(VfioPciDevice.open('nic', nic, fakeEnvironment()));
      expect(notes.events.find(({ what }) => what === 'reset')?.text).toContain(
        'keeps the state of its last user',
      );
    }
  });

  test('a device that does not respond after its reset is rejected', () => {
    using nic = createScriptedNic({ init: { config: new Uint8Array(256).fill(0xff) } });
    expect(() => VfioPciDevice.open('nic', nic, fakeEnvironment())).toThrow(
      /configuration space of nic: EIO/,
    );
  });

  test('a failed reset is reported with its errno', () => {
    using nic = createScriptedNic();
    nic.failures.set('reset', 'EAGAIN');
    expect(() => VfioPciDevice.open('nic', nic, fakeEnvironment())).toThrow(
      /reset on scripted device: EAGAIN/,
    );
  });

  test('bridges and other devices than PCI are rejected, and leave nothing open', () => {
    const config = createScriptedNic().config.slice();
    config[0x0e] = 1;
    using bridge = createScriptedNic({ init: { config } });
    expect(() => VfioPciDevice.open('nic', bridge, fakeEnvironment())).toThrow(/ENODEV/);
    using nic = createScriptedNic();
    const platform: DeviceFile = Object.create(nic, {
      getInfo: { value: (): DeviceInfo => ({ flags: 0, numRegions: 1, numIrqs: 0 }) },
    });
    expect(() => VfioPciDevice.open('nic', platform, fakeEnvironment())).toThrow(/ENODEV/);
  });

  test('a region falls back to trapping if its mmap fails', () => {
    using scope = new Scope();
    using notes = recordTrace(trace.vfio);
    const nic = scope.own(createScriptedNic());
    nic.failures.set('mmap', 'ENOMEM');
    const environment = fakeEnvironment();
    const device = scope.own(VfioPciDevice.open('nic', nic, environment));
    const bench = { nic, device, environment };
    expect(
      notes.events.some(({ text }) => text?.startsWith('BAR0: 32 KiB falls back to trapping: mmap')),
    ).toBe(true);
    place(bench);
    device.configWrite(COMMAND, 2, 2);
    expect(environment.memory.slots).toEqual([]);
    environment.mmio.write32(BigInt(AT0 + 0x10), 0x12345678);
    expect(nic.region(0).subarray(0x10, 0x14)).toEqual(new Uint8Array([0x78, 0x56, 0x34, 0x12]));
  });
});

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

describe('expansion ROM', () => {
  test('the ROM is readable where the guest enables it, read-only, and needs memory decoding', () => {
    using scope = new Scope();
    const bench = openNic(scope);
    const { device, environment, nic } = bench;
    nic.region(VFIO_PCI_ROM_REGION_INDEX).set([0x55, 0xaa, 0x40, 0x00]);
    device.configWrite(ROM, 4, 0xffffffff);
    expect(device.configRead(ROM, 4)).toBe(0xffff0001);
    device.configWrite(ROM, 4, 0xe0200001);
    expect(shown(bench)).toEqual([]);
    place(bench);
    device.configWrite(COMMAND, 2, 0x2);
    expect(environment.mmio.read32(0xe0200000n)).toBe(0x0040aa55);
    environment.mmio.write32(0xe0200000n, 0);
    expect(environment.mmio.read32(0xe0200000n)).toBe(0x0040aa55);
    device.configWrite(ROM, 4, 0xe0200000);
    expect(environment.mmio.ranges).toHaveLength(2);
  });
});

describe('the contents of the ROM', () => {
  const enable = ({ device }: Bench): void => {
    device.configWrite(ROM, 4, 0xe0200001);
    device.configWrite(COMMAND, 2, 0x2);
  };
  const romReads = ({ nic }: Bench) =>
    nic.calls.filter((call) => call.call === 'read' && call.region === VFIO_PCI_ROM_REGION_INDEX);
  const slots = ({ environment: { memory } }: Bench) =>
    memory.slots
      .filter(({ name }) => name.includes('ROM'))
      .map(({ gpa, bytes, isReadonly }) => [gpa, bytes, isReadonly]);

  test('are read once, at the first enable, however often the guest reads, enables and resets', () => {
    using scope = new Scope();
    const bench = openNic(scope);
    const { device, environment, nic } = bench;
    nic.region(VFIO_PCI_ROM_REGION_INDEX).set([0x55, 0xaa, 0x40]);
    expect(romReads(bench)).toHaveLength(0);
    for (let round = 0; round < 3; round++) {
      enable(bench);
      expect(slots(bench)).toEqual([[0xe0200000n, 0x10000n, true]]);
      for (let at = 0n; at < 0x10000n; at += 0x400n) environment.mmio.read32(0xe0200000n + at);
      expect(environment.mmio.read32(0xe0200000n)).toBe(0x0040aa55);
      device.configWrite(ROM, 4, 0xe0200000);
      expect(slots(bench)).toEqual([]);
      device.reset();
    }
    expect(romReads(bench)).toEqual([
      { call: 'read', region: VFIO_PCI_ROM_REGION_INDEX, at: 0, bytes: 0x10000 },
    ]);
  });

  test('that cannot be read are all-ones, with one note', () => {
    using scope = new Scope();
    const bench = openNic(scope);
    using notes = recordTrace(trace.vfio);
    bench.device.configWrite(ROM, 4, 0xe0200001);
    bench.nic.failures.set('read', 'EIO');
    bench.device.configWrite(COMMAND, 2, 0x2);
    for (let at = 0n; at < 64n; at += 4n)
      expect(bench.environment.mmio.read32(0xe0200000n + at)).toBe(0xffffffff);
    const texts = notes.events.filter(({ what }) => what === 'rom').map(({ text }) => text);
    expect(texts).toEqual(['the ROM reads as all-ones from 0x0 on: read on scripted device: EIO']);
  });

  test('are served from memory where no slot can be had, and of a ROM smaller than a page', () => {
    for (const [size, failure] of [
      [0x10000, 'ENOSPC'],
      [0x800, undefined],
    ] as const) {
      using scope = new Scope();
      const regions = { [VFIO_PCI_ROM_REGION_INDEX]: { size, flags: 1 } };
      const bench = openNic(scope, { init: { regions } });
      bench.nic.region(VFIO_PCI_ROM_REGION_INDEX).set([0x55, 0xaa, 0x01, 0x02], size - 4);
      bench.environment.memory.failure = failure;
      enable(bench);
      expect(slots(bench)).toEqual([]);
      expect(bench.environment.mmio.read32(0xe0200000n + BigInt(size - 4))).toBe(0x0201aa55);
      bench.environment.mmio.write32(0xe0200000n, 0);
      expect(bench.environment.mmio.read32(0xe0200000n)).toBe(0);
      expect(romReads(bench)).toHaveLength(1);
    }
  });
});

describe('detaching', () => {
  test('detaching hides everything from the guest, unwires all eventfds, disables DMA and resets the device', () => {
    using scope = new Scope();
    const bench = openNic(scope);
    const { device, nic, environment } = bench;
    place(bench);
    device.configWrite(COMMAND, 2, 0x7);
    device.configWrite(nicOffsets.msix + 2, 2, 0x8000);
    nic.calls.length = 0;
    device[Symbol.dispose]();
    expect(shown(bench)).toEqual([]);
    expect(environment.interrupts.lines.size).toBe(0);
    expect(nic.wired()).toEqual({});
    expect(nic.config[COMMAND]).toBe(0);
    expect(nic.calls.at(-2)).toEqual({ call: 'reset' }); // then a check that it still responds
  });

  test('a device that fails every call can still be detached', () => {
    using scope = new Scope();
    const bench = openNic(scope);
    const { device, nic, environment } = bench;
    place(bench);
    device.configWrite(COMMAND, 2, 0x7);
    device.configWrite(nicOffsets.msix + 2, 2, 0x8000);
    for (const call of ['read', 'write', 'setIrqs', 'reset'] as const) nic.failures.set(call, 'EIO');
    device[Symbol.dispose]();
    expect(shown(bench)).toEqual([]);
    expect(environment.interrupts.lines.size).toBe(0);
  });

  test('a machine reset restores the state after open', () => {
    using scope = new Scope();
    const bench = openNic(scope);
    const { device, nic, environment } = bench;
    place(bench);
    device.configWrite(COMMAND, 2, 0x7);
    environment.mmio.write32(BigInt(AT4 + nicMsix.table + 8), 0x41);
    device.configWrite(nicOffsets.msix + 2, 2, 0x8000);
    device.reset();
    expect(shown(bench)).toEqual([]);
    expect(device.interruptMode).toBe('none');
    expect(device.configRead(nicOffsets.msix + 2, 2)).toBe(4);
    expect(nic.config[COMMAND]).toBe(0);
    place(bench);
    device.configWrite(COMMAND, 2, 0x2);
    expect(environment.mmio.read32(BigInt(AT4 + nicMsix.table + 8))).toBe(0);
  });

  test.each([
    ['with a reset, after which Linux restores the configuration', {}],
    ['without a reset', { hasNoReset: true }],
  ])('after a machine reset, a device %s agrees with every bit that the guest sees', (_what, init) => {
    using scope = new Scope();
    const { device, nic } = openNic(scope, { init });
    const registers = [COMMAND, nicOffsets.msi + 2, nicOffsets.msix + 2, nicOffsets.pm + 4];
    const seen = () => registers.map((at) => device.configRead(at, 2));
    const there = () => registers.map((at) => new DataView(nic.config.buffer).getUint16(at, true));
    const powerOn = seen();
    // INTx disable, decoding and bus master; four messages of MSI; MSI-X with its function mask; D3hot.
    device.configWrite(COMMAND, 2, 0x0407);
    device.configWrite(nicOffsets.msi + 2, 2, 0x0021);
    device.configWrite(nicOffsets.msix + 2, 2, 0xc000);
    device.configWrite(nicOffsets.pm + 4, 2, 0x0003);
    device.reset();
    expect(seen()).toEqual(powerOn);
    const shared = [0x0407, 0x0071, 0xc000, 0x0003];
    expect(there().map((value, i) => value & (shared[i] as number))).toEqual([0, 0, 0, 0]);
  });

  test('a device that its last user left with INTx disabled can interrupt', () => {
    using scope = new Scope();
    const config = createScriptedNic().config.slice();
    config[COMMAND + 1] = 0x04;
    const { nic } = openNic(scope, { init: { hasNoReset: true, config } });
    expect(nic.config[COMMAND + 1]).toBe(0);
  });

  test('a device that stays in D3 through a machine reset is not decoded', () => {
    using scope = new Scope();
    const bench = openNic(scope, { init: { hasNoReset: true } });
    const { device, nic } = bench;
    nic.config[nicOffsets.pm + 4] = 0x03;
    nic.failures.set('write', 'EIO');
    device.reset();
    place(bench);
    device.configWrite(COMMAND, 2, 0x3);
    expect(shown(bench)).toEqual([]);
  });

  test('an access across an edge of the MSI-X table or PBA is split there, as KVM reports it whole', () => {
    using scope = new Scope();
    const bench = openNic(scope);
    const { device, environment, nic } = bench;
    place(bench);
    device.configWrite(COMMAND, 2, 0x3);
    const { mmio } = environment;
    const table = BigInt(AT4 + nicMsix.table);
    const pba = BigInt(AT4 + nicMsix.pba);
    const tableEnd = table + BigInt(16 * nicMsix.vectors);
    const quad = (at: bigint) => [...mmio.read(at, 8)];
    const region = (at: number) => [...nic.region(4).subarray(at, at + 4)];

    mmio.write(table - 4n, Uint8Array.of(1, 2, 3, 4, 0, 0xe0, 0xfe, 0xee));
    expect(region(nicMsix.table - 4)).toEqual([1, 2, 3, 4]);
    expect(region(nicMsix.table)).toEqual([0, 0, 0, 0]);
    expect(quad(table)).toEqual([0, 0xe0, 0xfe, 0xee, 0, 0, 0, 0]);
    expect(quad(table - 4n)).toEqual([1, 2, 3, 4, 0, 0xe0, 0xfe, 0xee]);

    mmio.write(tableEnd - 4n, Uint8Array.of(0, 0, 0, 0, 5, 6, 7, 8));
    expect(quad(tableEnd - 4n)).toEqual([0, 0, 0, 0, 5, 6, 7, 8]);
    expect(region(nicMsix.table + 16 * nicMsix.vectors)).toEqual([5, 6, 7, 8]);

    mmio.write(pba - 4n, new Uint8Array(8).fill(9));
    mmio.write(pba + 4n, new Uint8Array(8).fill(9));
    expect(quad(pba)).toEqual([0, 0, 0, 0, 0, 0, 0, 0]);
    expect(region(nicMsix.pba - 4)).toEqual([9, 9, 9, 9]);
    expect(region(nicMsix.pba)).toEqual([0, 0, 0, 0]);
    expect(region(nicMsix.pba + 8)).toEqual([9, 9, 9, 9]);
  });

  test('device requests and errors are reported to the owner', () => {
    using scope = new Scope();
    using notes = recordTrace(trace.vfio);
    const heard: string[] = [];
    const nic = scope.own(createScriptedNic());
    const environment = fakeEnvironment();
    const told = { requested: () => heard.push('requested'), failed: () => heard.push('failed') };
    scope.own(VfioPciDevice.open('nic', nic, environment, told));
    expect(nic.fire(VFIO_PCI_REQ_IRQ_INDEX)).toBe(true);
    environment.signals.deliver();
    expect(heard).toEqual(['requested']);
    nic.fire(VFIO_PCI_ERR_IRQ_INDEX);
    environment.signals.deliver();
    expect(heard).toEqual(['requested', 'failed']);
    expect(notes.events.map(({ text }) => text)).toContain('the host wants the device back');
  });

  test('a device without error and request notifications can be attached', () => {
    using scope = new Scope();
    const { environment } = openNic(scope, { init: { irqs: {} } });
    expect(environment.signals.watched.size).toBe(0);
  });
});
