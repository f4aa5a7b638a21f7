/** A Linux guest with NIC, serial ports and display is saved after its boot, and goes on from there any number of times. */
import { execFileSync } from 'node:child_process';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { BootedMachine } from '../vmm/kit/index.js';
import { GuestShell, PATIENT } from './guest-shell.js';
import { inL1 } from './images.js';
import { l2CommandLine } from './l2.js';
import { wrongBytes } from './l2-picture.js';

const { LAB_E1000E = '', LAB_FILE = '', LAB_MD5 = '' } = process.env;
const RESTORES = Number(process.env.LAB_RESTORES ?? 20);

const inL1Shell = (command: string) => execFileSync('sh', ['-c', command], { encoding: 'utf8' });

let booted: BootedMachine;
beforeAll(async () => {
  inL1Shell(`tap-up ${LAB_E1000E}`);
  booted = await BootedMachine.boot({
    config: {
      kernel: inL1.kernel,
      initrd: inL1.initrd,
      memory: '256M',
      devices: [
        { address: 'virtio-net', options: { net: 'tap:tap0' } },
        { address: 'vgpu-small' },
        { address: 'mtty-2' },
      ],
      cmdline: l2CommandLine({ checks: ['dhcp', 'picture', 'shell'] }),
    },
    until: /L2-PICTURE.*\/ # /s,
    ...PATIENT,
  });
}, 200_000);
afterAll(() => {
  booted?.[Symbol.dispose]();
  inL1Shell(`tap-down ${LAB_E1000E}`);
});

const ECHO =
  'stty -F /dev/ttyS2 raw -echo; exec 7<>/dev/ttyS2; echo there and back >&7; read -t 30 -r line <&7; echo $line';

test(`restored ${RESTORES} times, it fetches a file, shows its picture, and has its serial port`, async () => {
  const times: number[] = [];
  for (let round = 0; round < RESTORES; round++) {
    const start = performance.now();
    await using machine = booted.start();
    const shell = new GuestShell(machine);
    expect(await shell.answer('echo alive')).toBe('alive');
    times.push(Math.round(performance.now() - start));
    expect(await shell.answer(`wget -q -O - ${LAB_FILE} | md5sum`)).toContain(LAB_MD5);
    expect(await shell.answer(ECHO)).toBe('there and back');
    expect(await shell.answer('dmesg | grep -c "reseeded due to virtual machine fork"')).toBe('1');
    const picture = await shell.answer(
      'cat /sys/class/graphics/fb0/virtual_size /sys/class/graphics/fb0/stride',
    );
    const take = () => machine.vm.screenshot().then(Buffer.from);
    expect(await wrongBytes(`\nL2-PICTURE fb0 ${picture}\n`, take), 'wrong bytes in the picture').toBe(0);
  }
  console.log(`from the start to the answer of a command, ms: ${times.join(' ')}`);
}, 550_000);
