/**
 * Shows  a guest that boots with an assigned NIC, from another program
 * Needs  /dev/kvm
 * Prints how the NIC came to the guest, what the guest says, and what the NIC counted
 *
 *   node dist/examples/boot-nic.js [NET]      where the NIC's wire ends: responder (the default), tap:NAME
 */
import { exitStatus, VirtualMachine } from 'tsvisor';

const [net = 'responder'] = process.argv.slice(2);
await using vm = VirtualMachine.start(
  { memory: '64M', devices: [{ address: 'virtio-net', options: { net } }] },
  {
    step: (text) => console.log(`attach: ${text}`),
    serial: (bytes) => process.stdout.write(bytes),
  },
);
const { outcome, devices } = await vm.finished;
for (const { name, counters } of devices) console.log(name, counters);
process.exitCode = exitStatus(outcome);
