import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { Scope } from '../../sys/scope.js';
import { VFIO_PCI_MSI_IRQ_INDEX } from '../../vfio/uapi.js';
import { fakeEnvironment } from '../testing/fake-ports.js';
import type { ScriptedDevice } from '../testing/scripted-device.js';
import { VfioPciDevice } from './device.js';
import { createScriptedNic, nicOffsets, type ScriptedNicOptions } from './scripted-nic.js';

function openNic(
  scope: Scope,
  options: ScriptedNicOptions = {},
): { nic: ScriptedDevice; device: VfioPciDevice } {
  const nic = scope.own(createScriptedNic(options));
  const routeIntx = (): number => 11;
  return { nic, device: scope.own(VfioPciDevice.open('nic', nic, fakeEnvironment(), { routeIntx })) };
}

/** The first `bytes` of a configuration space in the format of `lspci -xxxx`. */
function dump(device: VfioPciDevice, bytes: number): string {
  const lines = ['00:03.0 function'];
  for (let at = 0; at < bytes; at += 16) {
    const row = Array.from({ length: 16 }, (_, i) =>
      device
        .configRead(at + i, 1)
        .toString(16)
        .padStart(2, '0'),
    );
    lines.push(`${at.toString(16).padStart(2, '0')}: ${row.join(' ')}`);
  }
  return `${lines.join('\n')}\n\n`;
}

const hasLspci = spawnSync('lspci', ['--version']).status === 0;

/** Decodes a dump with lspci; drops registers inside PCI Express and AER, whose wording changes between versions. */
function lspci(text: string): string {
  const folder = mkdtempSync(join(tmpdir(), 'tsvisor-lspci-'));
  try {
    writeFileSync(join(folder, 'dump'), text);
    const { stdout } = spawnSync('lspci', ['-nvvF', join(folder, 'dump')], { encoding: 'utf8' });
    const isStable = /^\t?\S|^\t\t(Address|Masking|Vector table|PBA):/;
    return stdout
      .split('\n')
      .filter((line) => isStable.test(line))
      .join('\n');
  } finally {
    rmSync(folder, { recursive: true });
  }
}

describe('configuration space of an assigned device', () => {
  test.skipIf(!hasLspci)('lspci (package pciutils) finds exactly what a guest may see', () => {
    using scope = new Scope();
    const { device } = openNic(scope);
    device.configWrite(0x10, 4, 0xe0000000);
    device.configWrite(0x18, 4, 0xc000);
    device.configWrite(0x20, 4, 0xe0100000);
    device.configWrite(0x04, 2, 0x0407);
    device.configWrite(nicOffsets.msix + 2, 2, 0x8000);
    expect(lspci(dump(device, 4096))).toMatchInlineSnapshot(`
      "00:03.0 0200: 8086:10d3
      	Subsystem: 8086:a01f
      	Control: I/O+ Mem+ BusMaster+ SpecCycle- MemWINV- VGASnoop- ParErr- Stepping- SERR- FastB2B- DisINTx+
      	Status: Cap+ 66MHz- UDF- FastB2B- ParErr- DEVSEL=fast >TAbort- <TAbort- <MAbort- >SERR- <PERR- INTx-
      	Latency: 0
      	Interrupt: pin A routed to IRQ 11
      	Region 0: Memory at e0000000 (32-bit, non-prefetchable)
      	Region 2: I/O ports at c000
      	Region 4: Memory at e0100000 (64-bit, prefetchable)
      	Capabilities: [40] Power Management version 3
      	Capabilities: [48] MSI: Enable- Count=1/4 Maskable+ 64bit+
      		Address: 0000000000000000  Data: 0000
      		Masking: 00000000  Pending: 00000000
      	Capabilities: [60] Express (v2) Root Complex Integrated Endpoint, MSI 00
      	Capabilities: [9c] MSI-X: Enable+ Count=5 Masked-
      		Vector table: BAR=4 offset=00002000
      		PBA: BAR=4 offset=00003000
      	Capabilities: [100 v1] Advanced Error Reporting
      	Capabilities: [148 v1] Device Serial Number 21-1b-00-ff-ff-ad-be-ef"
    `);
  });

  test('the command is forwarded to the device, BARs and interrupt line are not', () => {
    using scope = new Scope();
    const { nic, device } = openNic(scope);
    device.configWrite(0x10, 4, 0xe0000000);
    device.configWrite(0x3c, 1, 9);
    device.configWrite(0x04, 2, 0x0006);
    expect(nic.config.subarray(0x04, 0x06)).toEqual(new Uint8Array([6, 0]));
    expect([...nic.config.subarray(0x10, 0x14)]).toEqual([0, 0, 0, 0]);
    expect(nic.config[0x3c]).toBe(0);
    expect(device.configRead(0x3c, 1)).toBe(9);
    expect(device.configRead(0x10, 4)).toBe(0xe0000000);
  });

  test('a guest sees one function, the pin of its slot, and bus mastering off', () => {
    using scope = new Scope();
    const { device } = openNic(scope);
    expect(device.configRead(0x0e, 1)).toBe(0);
    expect(device.configRead(0x3c, 2)).toBe(0x010b);
    expect(device.configRead(0x04, 2)).toBe(0);
  });

  test('hidden capabilities read as 0 and ignore writes', () => {
    using scope = new Scope();
    const { nic, device } = openNic(scope);
    const before = nic.config.slice();
    for (let at = nicOffsets.sriov; at < nicOffsets.sriov + 0x40; at += 4) {
      expect(device.configRead(at, 4)).toBe(0);
      device.configWrite(at, 4, 0xffffffff);
    }
    expect(nic.config).toEqual(before);
  });

  test('registers that are not emulated go to the device, with their side effects', () => {
    using scope = new Scope();
    const { nic, device } = openNic(scope);
    nic.calls.length = 0;
    device.configWrite(0xe0, 2, 0x1234);
    expect(device.configRead(0xe0, 2)).toBe(0x1234);
    expect(nic.calls).toEqual([
      { call: 'write', region: 7, at: 0xe0, bytes: 2 },
      { call: 'read', region: 7, at: 0xe0, bytes: 2 },
    ]);
  });

  test('emulated registers are read without accessing the device', () => {
    using scope = new Scope();
    const { nic, device } = openNic(scope);
    nic.calls.length = 0;
    device.configRead(0x10, 4);
    device.configRead(nicOffsets.msix, 4);
    expect(nic.calls).toEqual([]);
  });

  test('MSI without vectors is hidden, and the list continues after it', () => {
    using scope = new Scope();
    const nic = scope.own(createScriptedNic());
    const bare = scope.own(createScriptedNic({ init: { irqs: { [VFIO_PCI_MSI_IRQ_INDEX]: { count: 0 } } } }));
    const listOf = (file: ScriptedDevice): number[] => {
      using device = VfioPciDevice.open('nic', file, fakeEnvironment());
      const ids: number[] = [];
      for (let at = device.configRead(0x34, 1); at !== 0; at = device.configRead(at + 1, 1)) {
        ids.push(device.configRead(at, 1));
      }
      return ids;
    };
    expect(listOf(nic)).toEqual([0x01, 0x05, 0x10, 0x11]);
    expect(listOf(bare)).toEqual([0x01, 0x10]);
  });

  test('a capability list with a cycle or an invalid pointer ends', () => {
    for (const next of [0x40, 0x60, 0xfc, 0x00, 0x3c]) {
      using scope = new Scope();
      const config = createScriptedNic().config.slice();
      config[nicOffsets.msi + 1] = next;
      if (next === 0xfc) config.fill(0xff, 0xfc, 0x100);
      // 0x60 is valid: its own next pointer leads back.
      if (next === 0x60) config[nicOffsets.exp + 1] = nicOffsets.pm;
      const { device } = openNic(scope, { init: { config } });
      let steps = 0;
      for (let at = device.configRead(0x34, 1); at !== 0 && steps < 100; at = device.configRead(at + 1, 1)) {
        steps++;
      }
      expect(steps).toBeLessThan(10);
    }
  });

  test('a device with 256 bytes reads all-ones past them', () => {
    using scope = new Scope();
    const config = createScriptedNic().config.slice(0, 256);
    const { device } = openNic(scope, { init: { config } });
    expect(device.configRead(0x100, 4)).toBe(0xffffffff);
    device.configWrite(0x100, 4, 0);
    expect(device.configRead(0xffc, 2)).toBe(0xffff);
  });

  test('an extended list whose first entry is hidden still starts at 0x100', () => {
    using scope = new Scope();
    const config = createScriptedNic().config.slice();
    config.set([0x10, 0, 1, 0x15], 0x100); // SR-IOV, version 1, next 0x150
    config.set([0x0b, 0, 1, 0], 0x150); // vendor-specific
    const { device } = openNic(scope, { init: { config } });
    expect(device.configRead(0x100, 4)).toBe(0x15000000);
    expect(device.configRead(0x150, 4)).toBe(0x0001000b);
  });
});
