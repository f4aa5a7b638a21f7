/**
 * Shows  a program that boots a guest with an assigned NIC
 * Needs  /dev/kvm; for a host device also the setup that README describes
 * Prints the steps of the attach, the guest's console, and the NIC's counters
 *
 *   node dist/examples/boot-nic.js                                       the built-in NIC and guest
 *   node dist/examples/boot-nic.js --device BDF --kernel FILE --initrd FILE [--append TEXT]
 */
import { parseArgs } from 'node:util';
import { exitStatus, VirtualMachine } from 'tsvisor';

const text = { type: 'string' } as const;
const { values } = parseArgs({ options: { device: text, kernel: text, initrd: text, append: text } });
const { device = 'virtio-net', kernel, initrd, append = '' } = values;
await using vm = VirtualMachine.start(
  {
    memory: '256M',
    cmdline: append,
    devices: [{ address: device }],
    ...(kernel === undefined ? {} : { kernel }),
    ...(initrd === undefined ? {} : { initrd }),
  },
  {
    step: (step) => console.log(`attach: ${step}`),
    serial: (bytes) => process.stdout.write(bytes),
  },
);
const { outcome, devices } = await vm.finished;
for (const { name, counters } of devices) console.log(name, counters);
process.exitCode = exitStatus(outcome);
