/** What reaches a device that decodes its BARs and masks its vectors by its own registers, as a vfio-user server may. */
import { describe, expect, test } from 'vitest';
import { Scope } from '../../sys/scope.js';
import { trace } from '../../sys/trace.js';
import { unixSocketPair } from '../../sys/unix-socket.js';
import {
  type ContainerFile,
  VFIO_PCI_CONFIG_REGION_INDEX,
  VFIO_PCI_MSI_IRQ_INDEX,
  VFIO_PCI_MSIX_IRQ_INDEX,
} from '../../vfio/uapi.js';
import { Channel } from '../../vfio/user/channel.js';
import { UserDeviceFile } from '../../vfio/user/client/device.js';
import { encodeCommand } from '../../vfio/user/message.js';
import { MAJOR, MINOR, VFIO_USER_VERSION } from '../../vfio/user/protocol.js';
import { Session } from '../../vfio/user/server/session.js';
import { FakeConnection } from '../../vfio/user/testing/fake-connection.js';
import { QEMU_CAPABILITIES } from '../../vfio/user/testing/raw-client.js';
import { encodeVersion } from '../../vfio/user/version.js';
import { fakeEnvironment, recordTrace } from '../testing/fake-ports.js';
import type { ScriptedDevice } from '../testing/scripted-device.js';
import { VfioPciDevice } from './device.js';
import { createScriptedNic, nicMsix, nicOffsets, type ScriptedNicOptions } from './scripted-nic.js';

const CONFIG = VFIO_PCI_CONFIG_REGION_INDEX;
const BAR4 = 0xe010_0000n;
const TABLE = BAR4 + BigInt(nicMsix.table);
const PBA = BAR4 + BigInt(nicMsix.pba);

function openNic(scope: Scope, init: ScriptedNicOptions['init'] = {}, isDynamic = false) {
  const nic = scope.own(createScriptedNic({ isDynamic, init: { takesEmulatedWrites: true, ...init } }));
  return { nic, ...openFile(scope, nic) };
}

function openFile(scope: Scope, file: ScriptedDevice | UserDeviceFile) {
  const environment = fakeEnvironment();
  return { device: scope.own(VfioPciDevice.open('nic', file, environment)), mmio: environment.mmio };
}

const word = (bytes: Uint8Array, at: number): number =>
  new DataView(bytes.buffer, bytes.byteOffset).getUint32(at, true);
const place = (device: VfioPciDevice): void => {
  device.configWrite(0x20, 4, Number(BAR4 | 0xcn)); // plain memory has no bits for reading only
  device.configWrite(0x24, 4, 0);
  device.configWrite(0x04, 2, 0x0006);
};

describe('a device that takes the writes to emulated registers', () => {
  test('is written addresses of BARs and ROM as the guest writes them, at every width', () => {
    using scope = new Scope();
    const { nic, device } = openNic(scope);
    device.configWrite(0x10, 4, 0xffff_ffff);
    expect(word(nic.config, 0x10)).toBe(0xffff_ffff);
    device.configWrite(0x10, 4, 0xe000_0000);
    device.configWrite(0x18, 2, 0xc001);
    device.configWrite(0x24, 1, 0x12);
    device.configWrite(0x30, 4, 0xfe00_0001);
    expect([0x10, 0x18, 0x24, 0x30].map((at) => word(nic.config, at))).toEqual([
      0xe000_0000, 0xc001, 0x12, 0xfe00_0001,
    ]);
    expect(device.configRead(0x3c, 1)).toBe(0);
    device.configWrite(0x3c, 1, 9);
    expect(nic.config[0x3c]).toBe(0);
  });

  test.each([false, true])(
    'has the addresses of power-on after a reset (without a reset of its own: %s)',
    (hasNoReset) => {
      using scope = new Scope();
      const { nic, device } = openNic(scope, { hasNoReset });
      const before = nic.config.slice(0x10, 0x34);
      place(device);
      device.configWrite(0x10, 4, 0xe000_0000);
      device.configWrite(0x30, 4, 0xfe00_0001);
      device.reset();
      expect(nic.config.slice(0x10, 0x34)).toEqual(before);
      // Even where only addresses were written, and it is not reset.
      device.configWrite(0x10, 4, 0xe000_0000);
      device.reset();
      expect(nic.config.slice(0x10, 0x34)).toEqual(before);
    },
  );

  test('knows its addresses before it is let decode', () => {
    using scope = new Scope();
    const config = createScriptedNic().config.slice();
    config.set([0, 0, 0x10, 0xe0], 0x10); // left by someone else
    const { nic } = openNic(scope, { config, hasNoReset: true });
    const writes = nic.calls.filter((call) => call.call === 'write' && call.region === CONFIG);
    expect(writes.at(-1)).toMatchObject({ at: 0x10, bytes: 4 });
    expect(word(nic.config, 0x10)).toBe(0);
  });

  test('is written MSI messages and masks, and asked what is pending', () => {
    using scope = new Scope();
    const { nic, device } = openNic(scope);
    const at = nicOffsets.msi;
    device.configWrite(at + 4, 4, 0xfee0_1000);
    device.configWrite(at + 8, 4, 1);
    device.configWrite(at + 12, 2, 0x4041);
    device.configWrite(at + 16, 4, 2);
    device.configWrite(at + 2, 2, 0x0011);
    const bytes = nic.config.subarray(at);
    expect([4, 8, 12, 16].map((offset) => word(bytes, offset))).toEqual([0xfee0_1000, 1, 0x4041, 2]);
    expect(nic.wired()[VFIO_PCI_MSI_IRQ_INDEX]).toEqual([0, 1]);
    bytes[20] = 0b110; // vector 2 is not enabled
    expect(device.configRead(at + 20, 4)).toBe(0b10);
    expect(device.configRead(at + 16, 4)).toBe(2);
    device.reset();
    expect([4, 8, 12, 16].map((offset) => word(bytes, offset))).toEqual([0, 0, 0, 0]);
  });

  test('is written the MSI-X table, an entry only once its vector has an eventfd', () => {
    using scope = new Scope();
    const { nic, device, mmio } = openNic(scope, {}, true);
    place(device);
    device.configWrite(nicOffsets.msix + 2, 2, 0x8000);
    nic.calls.length = 0;
    mmio.write32(TABLE + 44n, 0);
    expect(
      nic.calls.map((call) => [
        call.call,
        'at' in call ? call.at : call.call === 'setIrqs' && call.set.start,
      ]),
    ).toEqual([
      ['setIrqs', 2],
      ['write', nicMsix.table + 44],
    ]);
    mmio.write(TABLE + 32n, new Uint8Array([0, 0x10, 0xe0, 0xfe, 7, 0, 0, 0]));
    mmio.write(TABLE + 33n, new Uint8Array([0xff, 0xff])); // which no driver does
    const table = nic.region(4).subarray(nicMsix.table);
    expect([32, 36, 40, 44].map((at) => word(table, at))).toEqual([0xfee0_1000, 7, 0, 0]);
  });

  test('has pending vectors of its own, besides those pending here; nobody writes them', () => {
    using scope = new Scope();
    const { nic, device, mmio } = openNic(scope);
    place(device);
    device.configWrite(nicOffsets.msix + 2, 2, 0x8000);
    nic.region(4)[nicMsix.pba] = 0b1000;
    nic.fire(VFIO_PCI_MSIX_IRQ_INDEX, 1);
    expect([...mmio.read(PBA, 8)]).toEqual([0b1010, 0, 0, 0, 0, 0, 0, 0]);
    mmio.write32(PBA, 0);
    expect(nic.region(4)[nicMsix.pba]).toBe(0b1000);
  });

  test('may refuse its table and PBA: the guest’s are whole, and one note says so', () => {
    using scope = new Scope();
    const { nic, device, mmio } = openNic(scope);
    place(device);
    nic.failures.set('write', 'EINVAL').set('read', 'EINVAL');
    using notes = recordTrace(trace.vfio);
    for (let at = 0n; at < 16n; at += 4n) mmio.write32(TABLE + at, Number(at) + 1);
    expect(mmio.read32(PBA)).toBe(0);
    expect([0n, 4n, 8n, 12n].map((at) => mmio.read32(TABLE + at))).toEqual([1, 5, 9, 13]);
    expect(notes.events.filter(({ text }) => text?.includes('MSI-X table is not used'))).toHaveLength(1);
    nic.failures.clear();
  });

  test('is one that says so: others have these writes emulated only', () => {
    using scope = new Scope();
    const { nic, device, mmio } = openNic(scope, { takesEmulatedWrites: false });
    const before = nic.config.slice(0x10, 0x34);
    place(device);
    device.configWrite(nicOffsets.msi + 4, 4, 0xfee0_1000);
    mmio.write32(TABLE, 0xfee0_1000);
    nic.region(4)[nicMsix.pba] = 1;
    expect(mmio.read32(PBA)).toBe(0);
    expect(nic.config.slice(0x10, 0x34)).toEqual(before);
    expect(word(nic.config, nicOffsets.msi + 4)).toBe(0);
    expect(word(nic.region(4), nicMsix.table)).toBe(0);
  });
});

/** A client's connection to a server in the same thread: every command is answered in the call that sends it. */
class SessionConnection extends FakeConnection {
  constructor(scope: Scope, device: ScriptedDevice) {
    const [near, far] = unixSocketPair('vfio-user test');
    const channel = scope.own(new Channel(near));
    const container = {} as ContainerFile; // no memory is mapped
    const served = { device, container, [Symbol.dispose]: () => {} };
    const options = { trustsClient: false, waitMs: 5, replyMs: 1000 };
    const session = scope.own(new Session(new Channel(far), served, options));
    const ask = (command: number, payload: Uint8Array, fds: readonly number[]) => {
      channel.send(encodeCommand(1, command, payload), fds);
      while (session.step(false));
      const answer = channel.receive(false);
      if (answer === undefined || answer.errno !== 0) throw new RangeError(`${command}: ${answer?.errno}`);
      return { payload: answer.payload.slice(), fds: answer.fds.splice(0) };
    };
    ask(
      VFIO_USER_VERSION,
      encodeVersion({ major: MAJOR, minor: MINOR, capabilities: QEMU_CAPABILITIES }, false),
      [],
    );
    super(({ command, payload, fds }) => ask(command, Uint8Array.from(payload), fds));
  }

  override post(command: number, payload: Uint8Array<ArrayBuffer>): void {
    this.ask(command, payload);
  }
}

test('through vfio-user, a server’s device sees addresses, messages and the MSI-X table as a guest writes them', () => {
  using scope = new Scope();
  const nic = scope.own(createScriptedNic({ init: { regions: { 4: { size: 0x4000 } } } }));
  const file = scope.own(new UserDeviceFile(new SessionConnection(scope, nic).it, true));
  const { device, mmio } = openFile(scope, file);
  place(device);
  device.configWrite(nicOffsets.msi + 4, 4, 0xfee0_1000);
  device.configWrite(nicOffsets.msix + 2, 2, 0x8000);
  mmio.write32(TABLE, 0xfee0_2000);
  mmio.write32(TABLE + 12n, 0);
  nic.region(4)[nicMsix.pba] = 4;
  expect(word(nic.config, 0x20) & ~0xf).toBe(Number(BAR4) | 0);
  expect(word(nic.config, nicOffsets.msi + 4)).toBe(0xfee0_1000);
  expect(word(nic.region(4), nicMsix.table)).toBe(0xfee0_2000);
  expect(mmio.read32(PBA)).toBe(4);
  device.reset();
  expect(word(nic.config, 0x20) & ~0xf).toBe(0);
});
