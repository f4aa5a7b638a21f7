/**
 * Shows  a hypervisor of your own, in one thread, that attaches a device through tsvisor/assign
 * Needs  /dev/kvm; for a device of the host, an IOMMU and the right to it
 * Prints how the device was attached, what the guest prints, and what the device counted
 *
 *   node dist/examples/own-hypervisor.js                                 the built-in guest and NIC
 *   node dist/examples/own-hypervisor.js --device BDF --kernel VMLINUX --initrd FILE --append 'console=ttyS0 reboot=t'
 */
import { readFileSync, writeSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { createAssignment, PolledEventThread, trace } from 'tsvisor/assign';
import * as devices from 'tsvisor/devices';
import { cpuidFor, gpa, Kvm, longModeSregs, longModeTables, Mapping } from 'tsvisor/kvm';

const text = { type: 'string' } as const;
const options = { device: text, interface: text, kernel: text, initrd: text, append: text };
const { values } = parseArgs({ options });
const { device = 'virtio-net', interface: how, kernel, initrd: disk, append = '' } = values;
trace.vfio.subscribe(({ what, text }) => void (what === 'attach' && writeSync(1, `attach: ${text}\n`)));

// This machine's memory: RAM from 0, and from its end to the I/O APIC room for BARs.
const RAM_BYTES = 0x1000_0000;
const [TABLES, BOOT_PARAMS, COMMAND_LINE] = [0x1000, 0x9000, 0xa000];
const mmio = { kind: 'mmio', base: BigInt(RAM_BYTES), bytes: BigInt(0xfec0_0000 - RAM_BYTES) } as const;
const io = { kind: 'pio', base: 0xc000n, bytes: 0x2000n } as const;

await using events = await PolledEventThread.start();
using kvm = Kvm.open();
using vm = kvm.createVm();
vm.createIrqchip();
vm.createPit2();
using vcpu = vm.createVcpu(0);
using ram = Mapping.huge(RAM_BYTES);
using assignment = createAssignment({ vm, eventThread: events, windows: [mmio, io] });
const { memoryMap, pio, exits } = assignment.ports;
memoryMap.addRam(gpa(0n), ram);

const pci = devices.PciHost.create();
const serial = new devices.Serial({
  transmit: (bytes) => writeSync(1, bytes),
  raise: (level) => vm.irqLine(devices.COM1_GSI, level),
});
let status: number | undefined;
const exit = devices.createDebugExit((verdict) => {
  status = verdict;
});
pio.add(BigInt(devices.PCI_CONFIG_PORT), BigInt(devices.PCI_CONFIG_PORTS), pci.ports);
pio.add(BigInt(devices.COM1_PORT), BigInt(devices.SERIAL_PORTS), serial);
pio.add(BigInt(devices.DEBUG_EXIT_PORT), 1n, exit);

using assigned = assignment.attach({ address: device, interface: how === 'iommufd' ? how : 'group' });
using _slot = pci.add({ device: 3, function: 0 }, assigned.function);

// The guest: an ELF64 file, entered in long mode with what Linux (RSI) and the built-in guest (RDI) expect.
const put = (at: number, bytes: Uint8Array) => memoryMap.ram(BigInt(at), bytes.length).set(bytes);
const words = (...values: number[]) => new Uint8Array(Uint32Array.from(values).buffer);
const elf = readFileSync(kernel ?? new URL('../../vmm/guest/guest.elf', import.meta.url));
const header = new DataView(elf.buffer, elf.byteOffset);
for (let i = 0; i < header.getUint16(56, true); i++) {
  const at = Number(header.getBigUint64(32, true)) + i * header.getUint16(54, true);
  const field = (offset: number) => Number(header.getBigUint64(at + offset, true));
  const isLoaded = header.getUint32(at, true) === 1; // PT_LOAD
  if (isLoaded) put(field(24), elf.subarray(field(8), field(8) + field(32)));
}
const initrd = disk === undefined ? new Uint8Array(0) : readFileSync(disk);
const initrdAt = (RAM_BYTES - initrd.length) & ~0xfff;
put(initrdAt, initrd);
put(COMMAND_LINE, Buffer.from(`mmio=${mmio.base},${mmio.bytes} io=${io.base},${io.bytes} ${append}\0`));
put(BOOT_PARAMS + 0x210, words(0xff, 0, initrdAt, initrd.length)); // type_of_loader, ramdisk_image, ramdisk_size
put(BOOT_PARAMS + 0x228, words(COMMAND_LINE));
put(BOOT_PARAMS + 0x1e8, words(2)); // e820_entries, and the table: RAM below and above the ISA hole
put(BOOT_PARAMS + 0x2d0, words(0, 0, 0x9f000, 0, 1, 0x100000, 0, initrdAt - 0x100000, 0, 1));

put(TABLES, longModeTables(BigInt(TABLES)));
vcpu.setCpuid2(cpuidFor(0, kvm.getSupportedCpuid()));
vcpu.setSregs({ ...vcpu.getSregs(), ...longModeSregs(BigInt(TABLES)) });
const [rsi, rdi] = [BigInt(BOOT_PARAMS), BigInt(COMMAND_LINE)];
vcpu.setRegs({ rip: header.getBigUint64(24, true), rsi, rdi, rflags: 2n });

using _kicks = events.interruptRun(vcpu);
while (status === undefined) {
  events.poll();
  const reason = vcpu.run();
  if (reason.kind === 'interrupted') vcpu.page.setImmediateExit(false);
  if (!exits.dispatch(0, reason)) status = reason.kind === 'shutdown' ? 0 : 70; // a triple fault is Linux's reboot=t
}
console.log(assigned.device.name, assigned.device.counters?.());
process.exitCode = status;
