/**
 * For a lab test: a program that puts itself into a sandbox, and whose Linux guest, which has a NIC already, gets another one
 * and loses it again. Its argument is JSON: the machine's configuration, the device for later, a file that it may not read, and
 * with what it tries to get out at the end.
 */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { enterSandbox, VirtualMachine } from 'tsvisor';

const { config, later, secret, attack } = JSON.parse(process.argv[2]);
const sandbox = await enterSandbox(config, { read: [new URL('.', import.meta.url).pathname] });
sandbox.seal();

let text = '';
let check = () => {};
const vm = VirtualMachine.start(config, {
  serial: (bytes) => {
    text += Buffer.from(bytes).toString('latin1');
    process.stdout.write(bytes);
    check();
  },
  step: (step) => console.log(step),
});
const says = (wanted) =>
  new Promise((resolve, reject) => {
    check = () => text.includes(wanted) && resolve();
    check();
    vm.finished.then(() => reject(new Error(`the guest ended without '${wanted}'`)), reject);
  });
/** A line of its own, whatever the guest is printing. */
const say = (text) => console.log(`\nPROGRAM ${text}`);
const codeOf = async (what) => {
  try {
    await what();
    return 'done';
  } catch (error) {
    return error.code;
  }
};
const TAP = { address: 'virtio-net', options: { net: 'tap:tap0' } };
const bdf = (slot) => `0000:00:${slot.toString(16).padStart(2, '0')}.0`;
try {
  await says(`L2-CAME ${bdf(3)}`);
  const slot = await vm.attach(later);
  await says(`L2-CAME ${bdf(slot)}`);
  await vm.pause();
  say(`paused: ${vm.info().state}`);
  await vm.resume();
  say(`a tap: ${await codeOf(() => vm.attach(TAP))}`);
  say(`a file: ${await codeOf(() => readFileSync(secret))}`);
  if (attack === 'spawn') say(`spawn: ${spawnSync('/bin/true').error?.code}`);
  await vm.detach(slot);
  await says(`L2-GONE ${bdf(slot)}`);
  say(`devices: ${vm.devices.length}`);
} finally {
  await vm[Symbol.asyncDispose]();
}
say('ends');
