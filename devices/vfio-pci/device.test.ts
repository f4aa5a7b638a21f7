import { describe, expect, test } from 'vitest';
import { Fd } from '../../sys/fd.js';
import { Scope } from '../../sys/scope.js';
import { trace } from '../../sys/trace.js';
import {
  type DeviceFile,
  type DeviceInfo,
  VFIO_PCI_ERR_IRQ_INDEX,
  VFIO_PCI_REQ_IRQ_INDEX,
} from '../../vfio/uapi.js';
import { fakeEnvironment, recordTrace } from '../testing/fake-ports.js';
import { VfioPciDevice } from './device.js';
import { AT0, AT4, COMMAND, openNic, place, shown } from './nic-bench.js';
import { createScriptedNic, nicMsix, nicOffsets } from './scripted-nic.js';

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
