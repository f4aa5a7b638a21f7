/** What a running machine leaves to the garbage collector: a collection is a pause of the guest, or of its network. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, test, vi } from 'vitest';
import { Kvm } from '../kvm/system.js';
import type { DoorName } from '../sys/ioctl-door.js';
import { openDoor } from '../sys/open-door.js';
import { type Garbage, GarbageCount } from './testing/collections.js';
import { COUNTED_FRAMES, WARM_UP_FRAMES } from './testing/counted-responder.js';
import { elfOf } from './testing/elf.js';
import { runMachine } from './testing/machines.js';

vi.setConfig({ testTimeout: 120_000 }); // a guest of 70,000 exits

const plugins = [fileURLToPath(new URL('../dist/vmm/testing/garbage-plugin.js', import.meta.url))];
const folder = mkdtempSync(join(tmpdir(), 'tsvisor-garbage-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const u32 = (value: number): number[] => [0, 8, 16, 24].map((shift) => (value >>> shift) & 0xff);
/** mov edx, port; mov eax, value; out dx, eax */
const out32 = (port: number, value: number) => [0xba, ...u32(port), 0xb8, ...u32(value), 0xef];
const SLOT = 3;
const BAR = 0xc000_0000;
const setConfig = (register: number, value: number) => [
  ...out32(0xcf8, (0x8000_0000 | (SLOT << 11) | register) >>> 0),
  ...out32(0xcfc, value),
];
/** What causes an exit: a read of the PCI address port (in eax, dx), or of the device's BAR (mov eax, [rbx]). */
const ACCESS = { port: [0xed], bar: [0x8b, 0x03] } as const;
type Kind = keyof typeof ACCESS;
/** mov ecx, times; again: the access; dec ecx; jnz again */
const exits = (kind: Kind, times: number) => {
  const body = [...ACCESS[kind], 0xff, 0xc9];
  return [0xb9, ...u32(times), ...body, 0x75, -(body.length + 2) & 0xff];
};
/** mov byte [rbx], command */
const command = (value: number) => [0xc6, 0x03, value];
const EXITS = 50_000;
/** The one that is always there, and the fastest. */
const DOORS = new Set(['ffi-rs', openDoor('auto').name] as const);

const KVM_CHECK_EXTENSION = 0xae03;
const NO_EXTENSION = 0xffff;

function guest(kind: Kind): string {
  const path = join(folder, 'guest.elf');
  const code = [
    ...setConfig(0x10, BAR),
    ...setConfig(0x04, 2), // memory decoding
    ...[0xbb, ...u32(BAR), 0xba, ...u32(0xcf8)], // mov ebx, BAR; mov edx, 0xcf8
    ...exits(kind, 20_000), // until V8 has compiled it all
    ...command(1),
    ...exits(kind, EXITS),
    ...command(2),
    ...[0xb0, 0, 0xe6, 0xf4, 0xfa, 0xf4], // verdict 0; cli; hlt
  ];
  writeFileSync(path, elfOf(code));
  return path;
}

describe('the machine’s thread', () => {
  async function garbageOfExits(
    kind: Kind,
    ffi: DoorName,
    address = 'exit-counter',
  ): Promise<{ collections: number; bytesEach: number }> {
    const devices = [{ address, slot: SLOT }];
    const { report } = await runMachine({ guest: guest(kind), plugins, devices, ffi });
    expect(report.outcome).toEqual({ kind: 'verdict', status: 0 });
    expect(report.exits[kind === 'port' ? 'io' : 'mmio']).toBeGreaterThan(EXITS);
    const { collections = Number.NaN, bytes = Number.NaN } = report.devices[0]?.counters ?? {};
    const bytesEach = bytes / EXITS;
    console.log(
      `${kind} by ${report.ffi}: ${collections} collections, ${bytesEach.toFixed(2)} bytes an exit`,
    );
    return { collections, bytesEach };
  }

  /** Of the call alone, as the library makes objects of its own. */
  function garbageOfCalls(ffi: DoorName): number {
    using kvm = Kvm.open();
    const call = openDoor(ffi).prepare(kvm.fd.number, KVM_CHECK_EXTENSION, NO_EXTENSION); // 0, as KVM_RUN
    for (let i = 0; i < 20_000; i++) call();
    const count = new GarbageCount();
    for (let i = 0; i < EXITS; i++) call();
    return count.stop().bytes / EXITS;
  }

  for (const [kind, what, most] of [
    ['port', 'port exits', 16],
    ['bar', 'exits to a device of this process', 64],
  ] as const) {
    for (const ffi of DOORS)
      test(`${EXITS} ${what}, --ffi ${ffi}: 6 collections at most, and ${most} bytes of garbage beyond the library’s`, async () => {
        const { collections, bytesEach } = await garbageOfExits(kind, ffi);
        expect(collections).toBeLessThanOrEqual(6);
        expect(bytesEach).toBeLessThan(garbageOfCalls(ffi) + most);
      });
  }

  test('is caught when a device allocates 2 KB at each of its exits', async () => {
    const { collections } = await garbageOfExits('bar', 'ffi-rs', 'wasteful-exit-counter');
    expect(collections).toBeGreaterThan(6);
  });
});

describe('the event thread', () => {
  async function garbageOfPackets(name: string, address: string): Promise<Garbage> {
    const file = join(folder, name);
    const devices = [{ address: 'counted-nic', options: { net: `counted:${address}${file}` } }];
    const cmdline = `pings=1 udp=${WARM_UP_FRAMES + COUNTED_FRAMES},64,32`;
    const { report, serial } = await runMachine({ plugins, devices, cmdline });
    expect(report.outcome, serial).toEqual({ kind: 'verdict', status: 0 });
    return JSON.parse(readFileSync(file, 'utf8')) as Garbage;
  }

  test(`${COUNTED_FRAMES} packets each way cause 3 collections at most`, async () => {
    const { collections, bytes } = await garbageOfPackets('packets', '');
    console.log(`${collections} collections, ${(bytes / (2 * COUNTED_FRAMES)).toFixed(0)} bytes a packet`);
    expect(collections).toBeLessThanOrEqual(3);
  });

  test('is caught when its port allocates 2 KB a packet', async () => {
    const { collections } = await garbageOfPackets('waste', 'waste:');
    expect(collections).toBeGreaterThan(3);
  });
});
