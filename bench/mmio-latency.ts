/** How long a guest waits for a read of a device register: in process, and through vfio-user. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { elfOf } from '../vmm/testing/elf.js';
import { VirtualMachine } from '../vmm/virtual-machine.js';
import { u32 } from './machine-code.js';
import { interleave, microseconds, percentiles, scratchFolder, serving } from './measure.js';
import { percentileText, type Report } from './report.js';

const ROUNDS = 5;
const READS = 20_000;
const SINGLE_READS = 4000;
const WARM_UP = 2000;
const DEVICE = 'vgpu-small';
const SLOT = 3;
const VRAM_AT = 0xc000_0000;
const REGISTERS_AT = 0xc080_0000;
const DISPI_ID = REGISTERS_AT + 0x500;
const [BEGIN, END] = [0x50, 0x60];

/** mov edx, port; mov eax, value; out dx, eax */
const out32 = (port: number, value: number): number[] => [0xba, ...u32(port), 0xb8, ...u32(value), 0xef];
const setConfig = (register: number, value: number): number[] => [
  ...out32(0xcf8, (0x8000_0000 | (SLOT << 11) | register) >>> 0),
  ...out32(0xcfc, value),
];
/** mov al, value; out port, al */
const out8 = (port: number, value: number): number[] => [0xb0, value, 0xe6, port];
/** mov ecx, times; mov ebx, address; again: mov ax, [rbx]; dec ecx; jnz again */
const readRepeatedly = (times: number): number[] => [
  ...[0xb9, ...u32(times), 0xbb, ...u32(DISPI_ID)],
  ...[0x66, 0x8b, 0x03, 0xff, 0xc9, 0x75, 0xf9],
];

const COM1 = 0x3f8;
/** mov edx, COM1; then four times: out dx, al; shr eax, 8 */
const SEND_EAX = [0xba, ...u32(COM1), ...[0, 1, 2, 3].flatMap(() => [0xee, 0xc1, 0xe8, 0x08])];
/** rdtsc; mov esi, eax */
const START_CLOCK = [0x0f, 0x31, 0x89, 0xc6];
/** rdtsc; sub eax, esi */
const STOP_CLOCK = [0x0f, 0x31, 0x29, 0xf0];

/** Times a loop of reads as a whole, then single ones; each time goes to the serial port, as ticks of the TSC in 32 bits. */
function guestImage(): Uint8Array {
  const once = [...START_CLOCK, 0x66, 0x8b, 0x03, ...STOP_CLOCK, ...SEND_EAX, 0xff, 0xc9]; // ..., dec ecx
  const code = [
    ...setConfig(0x10, VRAM_AT),
    ...setConfig(0x18, REGISTERS_AT),
    ...setConfig(0x04, 2), // memory decoding
    ...readRepeatedly(WARM_UP),
    ...START_CLOCK,
    ...out8(0x80, BEGIN),
    ...readRepeatedly(READS),
    ...out8(0x80, END),
    ...STOP_CLOCK,
    ...SEND_EAX,
    ...[0xb9, ...u32(SINGLE_READS)],
    ...once,
    ...[0x75, -(once.length + 2) & 0xff], // jnz to the first of them
    ...out8(0xf4, 0),
    ...[0xfa, 0xf4], // cli; hlt
  ];
  return elfOf(code);
}

interface Reads {
  /** Nanoseconds per read, as seen by the guest. */
  readonly mean: number;
  readonly each: readonly number[];
}

async function read(guest: string, address: string): Promise<Reads> {
  const pieces: Uint8Array[] = [];
  await using vm = VirtualMachine.start(
    { guest, devices: [{ address, slot: SLOT }] },
    { serial: (bytes) => pieces.push(bytes) },
  );
  const { phases, outcome } = await vm.finished;
  const [begin, end] = [BEGIN, END].map((code) => phases.find((phase) => phase.code === code));
  if (begin === undefined || end === undefined)
    throw new Error(`the guest ended: ${JSON.stringify(outcome)}`);
  const exits = (end.exits.mmio ?? 0) - (begin.exits.mmio ?? 0);
  if (exits !== READS) throw new Error(`${exits} MMIO exits instead of ${READS}`);
  const sent = Buffer.concat(pieces);
  const [whole = 0, ...single] = Array.from({ length: sent.length / 4 }, (_, i) => sent.readUInt32LE(4 * i));
  if (single.length !== SINGLE_READS) throw new Error(`${single.length} times instead of ${SINGLE_READS}`);
  const ns = (end.at - begin.at) * 1e6;
  return { mean: ns / READS, each: single.map((ticks) => (ticks * ns) / whole) };
}

export async function mmioLatency(report: Report): Promise<void> {
  using folder = scratchFolder();
  const guest = join(folder.path, 'guest.elf');
  writeFileSync(guest, guestImage());
  const path = join(folder.path, 'device.sock');
  await using _server = await serving(process.execPath, ['serve', DEVICE, '--socket', path]);
  const ways = { 'in process': DEVICE, 'vfio-user': `vfio-user:${path}` };
  const each: Record<string, number[]> = {};
  const rounds = Object.entries(ways).map(([name, address]) => [
    name,
    async () => {
      const reads = await read(guest, address);
      each[name] = [...(each[name] ?? []), ...reads.each];
      return reads.mean;
    },
  ]);
  const means = await interleave(ROUNDS, Object.fromEntries(rounds));
  const near = means['in process'] as number;
  for (const [way, value] of Object.entries(means)) {
    const times = percentiles(each[way] ?? []);
    const name = `a guest's read of a register, ${way}`;
    const isFar = way === 'vfio-user';
    const ratio = isFar ? ` (${(value / near).toFixed(2)} x)` : '';
    report.line(
      `  ${name}: ${microseconds(value)}${ratio}; ${times.samples} timed: ${percentileText(times)}`,
    );
    report.add({
      benchmark: 'mmio-latency',
      name,
      unit: 'ns',
      value,
      each: times,
      ...(isFar && { ratio: { to: "a guest's read of a register, in process", value: value / near } }),
    });
  }
}
