import { nearestPciAddress } from '../vfio/addresses.js';
import { checkHostDevices, isCheckable } from '../vfio/host/check/index.js';
import { hostProvider } from '../vfio/host/index.js';
import { checkText } from './check-text.js';
import { CHECK } from './cli-help.js';
import { parseCommandLine, usageError } from './command-line.js';
import { parseSize } from './config.js';
import { ConfigError, type ConfigProblem } from './config-error.js';
import { parseAddress } from './device-address.js';
import { onlyOne } from './device-check.js';
import { isPlace, placeProblem } from './device-text.js';
import type { Output } from './output.js';
import { pcRam } from './ram-layout.js';

/** The exit status if a rule fails. */
const FAILS = 1;
const PAGE = 4096n;

type Interface = 'group' | 'iommufd';
type Request = Parameters<typeof checkHostDevices>[0];

/** Runs `tsvisor check`. Returns the exit code. @throws ConfigError for wrong usage */
export function check(args: readonly string[], out: Output): number {
  const options = parseCommandLine(CHECK, args);
  if (options.positionals.length === 0)
    throw usageError('check', 'names no device: tsvisor check 0000:01:00.0 --memory 1G');
  const how = parseInterface(options.value('interface'), '--interface');
  const memory = parseMemory(options.value('memory'));
  const report = checkHostDevices({
    devices: parseDevices(options.positionals, how),
    memory: memory === undefined ? undefined : pcRam(memory),
    // A shell starts the guest: root's own, or the one of the user who gets the command from root.
    lockingProcess: process.geteuid?.() === 0 ? '$$' : String(process.ppid),
  });
  if (options.has('json')) out.line(JSON.stringify(report));
  else out.line(checkText(report));
  return report.verdict === 'fails' ? FAILS : 0;
}

function parseInterface(text: string | undefined, where: string): Interface | undefined {
  if (text === undefined || text === 'group' || text === 'iommufd') return text;
  throw usageError(where, `'${text}' is neither group nor iommufd`);
}

function parseMemory(text: string | undefined): bigint | undefined {
  if (text === undefined) return undefined;
  const bytes = parseSize(text);
  if (bytes === undefined)
    throw usageError('--memory', `'${text}' is not a size; write 64M, 1G or a number of bytes`);
  if (bytes === 0n || bytes % PAGE !== 0n)
    throw usageError('--memory', `${bytes} bytes are no whole number of pages of ${PAGE} bytes`);
  return bytes;
}

/** @throws ConfigError listing the problems of all devices */
function parseDevices(texts: readonly string[], how: Interface | undefined): Request['devices'] {
  const problems: ConfigProblem[] = [];
  const devices = texts.flatMap((text) => {
    try {
      return [parseDevice(text, how)];
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error;
      problems.push(...error.problems);
      return [];
    }
  });
  const names = devices.map(({ address }) => onlyOne(address));
  const twice = names.findIndex((name, i) => name !== undefined && names.indexOf(name) < i);
  if (twice >= 0) problems.push({ path: `check ${names[twice]}`, text: 'is given twice' });
  if (problems.length > 0) throw new ConfigError(problems);
  return devices;
}

function parseDevice(text: string, how: Interface | undefined): Request['devices'][number] {
  const where = `check ${text}`;
  const { address, options } = parseAddress(text, where);
  // As --device of run has them; a slot of the guest's concerns no rule.
  const { interface: own, slot, ...others } = options;
  if (slot !== undefined && !isPlace(slot)) throw usageError(where, placeProblem(slot));
  if (!isCheckable(address)) {
    const meant = nearestPciAddress(address);
    const takes =
      meant === undefined
        ? ': check takes a PCI address such as 0000:01:00.0, the UUID of a mediated device, or mdev:TYPE'
        : `; did you mean ${meant}?`;
    throw usageError(where, `'${address}' is no device of the host${takes}`);
  }
  const problem = hostProvider().checkOptions?.(address, others);
  if (problem !== undefined) throw usageError(where, problem);
  const chosen = parseInterface(own, where) ?? how;
  return { address, options: others, ...(chosen === undefined ? {} : { interface: chosen }) };
}
