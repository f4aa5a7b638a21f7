import { readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { compare } from './compare.js';
import { parseDevices } from './devices.js';
import { runGuests } from './guests.js';
import { prepare } from './images.js';
import { L1, type L1Options, l1Shell } from './l1.js';
import { cacheFolder, projectFolder } from './paths.js';
import { runServed } from './vfio-user.js';

const usage = `npm run lab -- [OPTIONS] COMMAND

  COMMAND ARGUMENTS...     run a command in L1, as root, in the project's folder; exits with its status
  test FILE...             run lab tests (*.lab.test.ts) in L1; all of them, each file in its own L1, if none is named
  shell                    a shell in L1 on this terminal
  guests [CELL...]         pass each device through to L2 under tsvisor, and print a table
  vfio-user [CELL...]      serve tsvisor's devices to Debian's QEMU 11 with a Linux guest, and print a table
  compare                  tsvisor beside Debian's QEMU: boot, file over the NIC, memory
  selftest [CELL...]       the same under Debian's QEMU: proves the lab without tsvisor
  prepare                  fetch packages and build images, without a boot
  clean                    delete the cache

  --devices all|A,B...     devices of L1; all if not given
  --no-iommu               L1 without an IOMMU
  --cpus N  --memory MIB   size of L1 (2, 2048)
  --timeout SECONDS        limit of the command (600)
`;

const TEST_FOLDERS = ['kvm', 'vfio', 'devices', 'vmm', 'examples', 'lab'];

const quote = (word: string): string => `'${word.replaceAll("'", "'\\''")}'`;

async function runInL1(words: readonly string[], options: L1Options, timeoutMs: number): Promise<number> {
  await using l1 = await L1.boot(options);
  const command = words.length === 1 ? words[0]! : words.map(quote).join(' ');
  const { status } = await l1.run(command, { timeoutMs, onOutput: (bytes) => process.stdout.write(bytes) });
  return status;
}

/** The project's lab tests. */
function labTests(): string[] {
  return TEST_FOLDERS.flatMap((folder) =>
    readdirSync(join(projectFolder, folder), { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('.lab.test.ts') && !name.startsWith('.'))
      .map((name) => join(folder, name)),
  );
}

/** Tests for a machine without an IOMMU. */
const NO_IOMMU = /\.no-iommu\.lab\.test\.ts$/;

/** Runs the named tests in one L1; if none is named, each file in its own L1, since tests unplug devices. */
async function runTests(names: readonly string[], options: L1Options, timeoutMs: number): Promise<number> {
  const vitest = [
    'node',
    `${projectFolder}/node_modules/vitest/vitest.mjs`,
    'run',
    '--config',
    'lab/vitest.lab.ts',
  ];
  const runs = names.length > 0 ? [names] : labTests().map((name) => [name]);
  let status = 0;
  for (const run of runs) {
    const iommu = options.iommu !== false && !run.some((name) => NO_IOMMU.test(name));
    status = (await runInL1([...vitest, ...run], { ...options, iommu }, timeoutMs)) || status;
  }
  return status;
}

async function main(argv: string[]): Promise<number> {
  // Options end at the command; the rest belongs to it.
  const withValue = ['--devices', '--cpus', '--memory', '--timeout'];
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
  };
  const timeoutMs = Number(values.timeout) * 1000;
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
      return (await runGuests('qemu', rest)) ? 0 : 1;
    case 'compare':
      await compare();
      return 0;
    case 'vfio-user':
      return (await runServed(rest)) ? 0 : 1;
    case 'guests':
      return (await runGuests('tsvisor', rest)) ? 0 : 1;
    case 'test':
      return runTests(rest, options, timeoutMs);
    default:
      return runInL1([command, ...rest], options, timeoutMs);
  }
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  process.stderr.write(`lab: ${(error as Error).message}\n`);
  process.exitCode = 125;
}
