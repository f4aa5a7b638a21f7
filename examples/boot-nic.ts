/**
 * Shows  a guest that boots with an assigned NIC, from another program
 * Needs  /dev/kvm; with a device of the host's, what README says under "As a program"
 * Prints how the NIC came to the guest, what the guest says, and what the NIC counted
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
