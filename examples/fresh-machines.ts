/**
 * Shows  a machine that boots once, and machines that begin where it has got to, as tests do
 * Needs  /dev/kvm
 * Prints how long the boot took, and then each start, until its guest has used a NIC of its own
 *
 *   node dist/examples/fresh-machines.js
 */
import { BootedMachine } from 'tsvisor/testing';

const NIC = { address: 'virtio-net', options: { net: 'responder' } };
const since = (begun: number) => `${Math.round(performance.now() - begun)} ms`;

const begun = performance.now();
using booted = await BootedMachine.boot({
  config: { memory: '16M', cmdline: 'hotplug=1 pings=2' },
  until: 'hotplug: ready',
});
console.log(`booted and saved in ${since(begun)}`);

/** What a test would do. */
async function pingThroughNic(name: string): Promise<void> {
  const started = performance.now();
  await using machine = booted.start();
  const slot = await machine.vm.attach(NIC);
  await machine.says(`the NIC in slot ${slot} works, 2/2 replies`);
  console.log(`${name}: 2/2 replies after ${since(started)}`);
}
await pingThroughNic('first');
await Promise.all(['second', 'third'].map(pingThroughNic));
