/** How long a guest waits for a read of a device register: in process, and through vfio-user. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { elfOf } from '../vmm/testing/elf.js';
import { VirtualMachine } from '../vmm/virtual-machine.js';
import { u32 } from './machine-code.js';
import { interleave, microseconds, scratchFolder, serving } from './measure.js';

const ROUNDS = 5;
const READS = 20_000;
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

/** A guest for the ABI of vmm/guest/abi.h that only reads one register. */
function guestImage(): Uint8Array {
  const code = [
    ...setConfig(0x10, VRAM_AT),
    ...setConfig(0x18, REGISTERS_AT),
    ...setConfig(0x04, 2), // memory decoding
    ...readRepeatedly(WARM_UP),
    ...out8(0x80, BEGIN),
    ...readRepeatedly(READS),
    ...out8(0x80, END),
    ...out8(0xf4, 0),
    ...[0xfa, 0xf4], // cli; hlt
  ];
  return elfOf(code);
}

/** Nanoseconds per read, as seen by the guest. */
async function readNs(guest: string, address: string): Promise<number> {
  await using vm = VirtualMachine.start({ guest, devices: [{ address, slot: SLOT }] });
  const { phases, outcome } = await vm.finished;
  const [begin, end] = [BEGIN, END].map((code) => phases.find((phase) => phase.code === code));
  if (begin === undefined || end === undefined)
    throw new Error(`the guest ended: ${JSON.stringify(outcome)}`);
  const exits = (end.exits.mmio ?? 0) - (begin.exits.mmio ?? 0);
  if (exits !== READS) throw new Error(`${exits} MMIO exits instead of ${READS}`);
  return ((end.at - begin.at) * 1e6) / READS;
}

export async function mmioLatency(): Promise<void> {
  using folder = scratchFolder();
  const guest = join(folder.path, 'guest.elf');
  writeFileSync(guest, guestImage());
  const path = join(folder.path, 'device.sock');
  await using _server = await serving(process.execPath, ['serve', DEVICE, '--socket', path]);
  const { 'in process': near = Number.NaN, 'vfio-user': far = Number.NaN } = await interleave(ROUNDS, {
    'in process': () => readNs(guest, DEVICE),
    'vfio-user': () => readNs(guest, `vfio-user:${path}`),
  });
  const ratio = (far / near).toFixed(2);
  console.log(
    `  a guest's read of a register: ${microseconds(near)} in process, ${microseconds(far)} by vfio-user (${ratio} x)`,
  );
}
