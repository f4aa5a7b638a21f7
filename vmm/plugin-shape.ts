/**
 * Whether what a plug-in exports is what the types say. A plug-in in JavaScript has had no compiler to tell it, and would
 * otherwise end in a TypeError somewhere in this package.
 */
import type { MdevInstance } from '../vfio/driver.js';

/** By name of the member: its type, as `typeof` has it; a trailing `?` for one that can be absent. */
type Shape = Readonly<
  Record<
    string,
    'string' | 'string?' | 'number' | 'number?' | 'function' | 'array' | 'array?' | 'function?' | 'object?'
  >
>;

const PLUGIN: Shape = {
  name: 'string',
  vendorDrivers: 'array?',
  vgpuPlacements: 'array?',
  providers: 'array?',
  configure: 'function?',
};
const DRIVER: Shape = {
  name: 'string',
  types: 'array',
  create: 'function',
  availableInstances: 'function?',
  shortage: 'function?',
  parents: 'function?',
  checkOptions: 'function?',
};
const TYPE: Shape = {
  name: 'string',
  description: 'string',
  deviceApi: 'string',
  maxInstances: 'number',
  options: 'array?',
};
const OPTION: Shape = { name: 'string', value: 'string', description: 'string' };
const PLACEMENT: Shape = { name: 'string', place: 'function' };
const PROVIDER: Shape = {
  name: 'string',
  addresses: 'string',
  names: 'array?',
  matches: 'function',
  resolve: 'function',
  groups: 'object?',
  cdevs: 'object?',
  checkOptions: 'function?',
  prepare: 'function?',
};
const OPS: Shape = {
  name: 'string',
  openDevice: 'function',
  closeDevice: 'function',
  getInfo: 'function',
  getRegionInfo: 'function',
  getIrqInfo: 'function',
  setIrqs: 'function',
  read: 'function',
  write: 'function',
  getRegionIoFds: 'function?',
  reset: 'function?',
  mmap: 'function?',
  queryGfxPlane: 'function?',
  getGfxDmabuf: 'function?',
  gfxHeads: 'number?',
  request: 'function?',
  dmaUnmap: 'function?',
  migration: 'object?',
  dmaLogging: 'object?',
};

const SRIOV: Shape = {
  capabilityAt: 'number',
  totalVfs: 'number',
  deviceId: 'number',
  bars: 'array',
  create: 'function',
};

const typeOf = (value: unknown): string => (Array.isArray(value) ? 'array' : typeof value);

/** What is wrong with the members of `value`; undefined if nothing is. */
function shapeProblem(what: string, value: unknown, shape: Shape): string | undefined {
  if (typeof value !== 'object' || value === null) return `${what} is not an object`;
  const members = value as Readonly<Record<string, unknown>>;
  const wrong = Object.entries(shape).filter(([name, wanted]) => {
    const isAbsent = members[name] === undefined;
    return wanted.endsWith('?') && isAbsent ? false : typeOf(members[name]) !== wanted.replace('?', '');
  });
  if (wrong.length === 0) return undefined;
  const article = (wanted: string) => (/^[ao]/.test(wanted) ? `an ${wanted}` : `a ${wanted}`);
  const list = wrong.map(([name, wanted]) => `${name} has to be ${article(wanted.replace('?', ''))}`);
  return `${what}: ${list.join(', ')}`;
}

/** What is wrong with the export `plugin`; undefined if nothing is. */
export function pluginProblem(plugin: unknown): string | undefined {
  const problem = shapeProblem('its export plugin', plugin, PLUGIN);
  if (problem !== undefined) return problem;
  const {
    vendorDrivers = [],
    vgpuPlacements = [],
    providers = [],
  } = plugin as Readonly<Record<string, unknown[]>>;
  for (const [i, driver] of vendorDrivers.entries()) {
    const wrong = shapeProblem(`vendorDrivers[${i}]`, driver, DRIVER);
    if (wrong !== undefined) return wrong;
    for (const [j, type] of (driver as { types: unknown[] }).types.entries()) {
      const wrongType = shapeProblem(`vendorDrivers[${i}].types[${j}]`, type, TYPE);
      if (wrongType !== undefined) return wrongType;
      for (const [k, option] of ((type as { options?: unknown[] }).options ?? []).entries()) {
        const wrongOption = shapeProblem(`vendorDrivers[${i}].types[${j}].options[${k}]`, option, OPTION);
        if (wrongOption !== undefined) return wrongOption;
      }
    }
  }
  for (const [i, placement] of vgpuPlacements.entries()) {
    const wrong = shapeProblem(`vgpuPlacements[${i}]`, placement, PLACEMENT);
    if (wrong !== undefined) return wrong;
  }
  for (const [i, provider] of providers.entries()) {
    const wrong = shapeProblem(`providers[${i}]`, provider, PROVIDER);
    if (wrong !== undefined) return wrong;
  }
  return undefined;
}

/** What is wrong with the result of a vendor driver's `create`; undefined if nothing is. */
export function instanceProblem(instance: unknown): string | undefined {
  if (instance instanceof Promise) return 'create is asynchronous: it has to return the instance itself';
  const problem = shapeProblem('the result of create', instance, {
    ops: 'object?' as const,
    counters: 'function?',
    inject: 'function?',
    input: 'function?',
    inputKind: 'string?',
    sriov: 'object?',
    parent: 'function?',
  });
  if (problem !== undefined) return problem;
  const { ops, sriov, [Symbol.dispose]: dispose } = instance as Partial<MdevInstance>;
  if (typeof dispose !== 'function') return 'the result of create has no [Symbol.dispose]() to release it';
  const wrong = sriov === undefined ? undefined : shapeProblem('sriov of the result of create', sriov, SRIOV);
  return wrong ?? shapeProblem('ops of the result of create', ops, OPS);
}
