import { rmSync } from 'node:fs';
import { constants } from 'node:os';
import { parseArgs } from 'node:util';
import { compare } from './compare.js';
import { parseDevices } from './devices.js';
import { countExits } from './exits.js';
import { runGuests } from './guests.js';
import { prepare } from './images.js';
import { type L1Options, l1Shell } from './l1.js';
import { cacheFolder } from './paths.js';
import { parseServed } from './served.js';
import { LAB_FAILED, runInL1, runTests } from './tests.js';
import { runServed } from './vfio-user.js';

const usage = `npm run lab -- [OPTIONS] COMMAND

  COMMAND ARGUMENTS...     run a command in L1, as root, in the project's folder; exits with its status
  test FILE...             run tests of the tiers lab and kvm in L1; if none is named, all of lab, each file in its own L1
  shell                    a shell in L1 on this terminal
  guests [CELL...]         pass each device through to L2 under tsvisor, and print a table
  vfio-user [CELL...]      serve tsvisor's devices to Debian's QEMU 11 with a Linux guest, and print a table
  compare                  tsvisor beside Debian's QEMU, as ratios; boot, nic, net, disk, view choose, --rounds N (3)
  exits                    exits of a Linux boot to the VMM by cause, under tsvisor and Debian's QEMU
  selftest [CELL...]       the same under Debian's QEMU: proves the lab without tsvisor
  prepare                  fetch packages and build images, without a boot
  clean                    delete the cache

  --devices all|none|A,B...  devices of L1; all if not given
  --serve DEVICE[,...]     a device of tsvisor's that L1 has, too, served by vfio-user: testcard,vectors=16; may be repeated
  --no-iommu               L1 without an IOMMU
  --cpus N  --memory MIB   size of L1 (2, 2048)
  --timeout SECONDS        limit of the command, or of each test file (600)
  --all                    with test, guests and selftest: what is for the nightly run, too
  --tries N                runs a test file or a cell that fails up to N times, each time in a new L1 (1)
`;

async function main(argv: string[]): Promise<number> {
  // Options end at the command; the rest belongs to it.
  const withValue = ['--devices', '--cpus', '--memory', '--timeout', '--tries', '--serve'];
  let end = 0;
  while (argv[end]?.startsWith('--')) end += withValue.includes(argv[end]!) ? 2 : 1;
  const { values } = parseArgs({
    args: argv.slice(0, end),
    options: {
      devices: { type: 'string', default: 'all' },
      'no-iommu': { type: 'boolean', default: false },
      cpus: { type: 'string', default: '2' },
      memory: { type: 'string', default: '2048' },
      timeout: { type: 'string', default: '600' },
      all: { type: 'boolean', default: false },
      tries: { type: 'string', default: '1' },
      serve: { type: 'string', multiple: true, default: [] },
      help: { type: 'boolean', default: false },
    },
  });
  const [command, ...rest] = argv.slice(end);
  if (command === undefined || values.help) {
    process.stdout.write(usage);
    return values.help ? 0 : 2;
  }
  const options: L1Options = {
    devices: parseDevices(values.devices),
    cpus: Number(values.cpus),
    memory: Number(values.memory),
    iommu: !values['no-iommu'],
    served: parseServed(values.serve),
  };
  const timeoutMs = Number(values.timeout) * 1000;
  const tries = Number(values.tries);
  switch (command) {
    case 'prepare':
      await prepare();
      return 0;
    case 'clean':
      rmSync(cacheFolder, { recursive: true, force: true });
      return 0;
    case 'shell':
      await l1Shell(options);
      return 0;
    case 'selftest':
      return (await runGuests('qemu', rest, { tries, all: values.all })) ? 0 : 1;
    case 'compare':
      return (await compare(rest)) ? 0 : 1;
    case 'exits':
      await countExits();
      return 0;
    case 'vfio-user':
      return (await runServed(rest, tries)) ? 0 : 1;
    case 'guests':
      return (await runGuests('tsvisor', rest, { tries, all: values.all })) ? 0 : 1;
    case 'test':
      return runTests(rest, options, { timeoutMs, tries, all: values.all });
    default:
      return runInL1([command, ...rest], options, timeoutMs);
  }
}

// By default these end the process at once: QEMU and its folder are removed by listeners of 'exit'.
for (const signal of ['SIGHUP', 'SIGINT', 'SIGTERM'] as const)
  process.on(signal, () => process.exit(128 + constants.signals[signal]));

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  process.stderr.write(`lab: ${(error as Error).message}\n`);
  process.exitCode = LAB_FAILED;
}
