/**
 * Shows  a guest with a mediated display card, whose screen the program captures
 * Needs  /dev/kvm
 * Prints the steps of the attach, the guest's console, and whether the captured picture is correct; saves it as PNG
 *
 *   node dist/examples/mdev-vgpu.js [--type vgpu-medium] [--xres 1280 --yres 720] [--out vgpu.png]
 *   node dist/examples/mdev-vgpu.js --kernel FILE --initrd FILE [--append TEXT] [--seconds 20]      Linux, by bochs-drm
 */
import { writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { encodePng, exitStatus, guestPicture, toPicture, VirtualMachine } from 'tsvisor';

const text = { type: 'string' } as const;
const { values } = parseArgs({
  options: {
    ...{ type: text, xres: text, yres: text, out: text },
    ...{ kernel: text, initrd: text, append: text, seconds: text },
  },
});
const { type = 'vgpu-small', xres = '1024', yres = '768', out = 'vgpu.png', kernel, initrd } = values;

await using vm = VirtualMachine.start(
  {
    memory: '256M',
    cmdline: values.append ?? '',
    devices: [{ address: type, options: { xres, yres } }],
    ...(kernel === undefined ? {} : { kernel }),
    ...(initrd === undefined ? {} : { initrd }),
  },
  {
    step: (step) => console.log(`attach: ${step}`),
    serial: (bytes) => process.stdout.write(bytes),
  },
);
// Linux does not power off by itself: capture its screen after a while.
if (kernel === undefined) await vm.finished;
else await new Promise((resolve) => setTimeout(resolve, 1000 * Number(values.seconds ?? 20)));

const picture = await vm.look(undefined, toPicture);
writeFileSync(out, await encodePng(picture));
console.log(`${out}: ${picture.width} x ${picture.height} pixels`);
vm.stop();
const { outcome } = await vm.finished;
if (kernel === undefined) {
  const expected = guestPicture(Number(xres), Number(yres));
  const wrong = picture.rgba.reduce((sum, byte, i) => sum + Number(byte !== expected.rgba[i]), 0);
  const isSame = wrong === 0 && picture.rgba.length === expected.rgba.length;
  console.log(isSame ? 'every pixel is the one that the guest drew' : `${wrong} bytes are wrong`);
  process.exitCode = isSame ? exitStatus(outcome) : 1;
}
