/** The rule about locked memory: all memory that a device can reach is pinned, and that is limited. */
import { join } from 'node:path';
import { formatRange } from '../../../sys/address.js';
import { errno } from '../../../sys/errno.js';
import { SysError } from '../../../sys/error.js';
import { type HostContext, vfioPath } from '../context.js';
import { inMib, type LockedMemory, noMemoryHint, readLockedMemory } from '../memlock.js';
import { list, text } from '../sysfs.js';
import { says } from './evidence.js';
import { type CheckEvidence, type CheckFinding, fails, ok, unknown, warning } from './finding.js';
import type { CheckedMachine, CheckInterface, GuestRange, Rule } from './subject.js';

const CAP_IPC_LOCK = 14n;
/** The user namespace in which the kernel asks for the capability: its map is the identity. */
const INITIAL_UID_MAP = /^\s*0\s+0\s+4294967295\s*$/;

export const memoryLock: Rule<CheckedMachine> = {
  name: 'memory-lock',
  check(machine) {
    const { context, memory } = machine;
    const ways = pinning(machine);
    if (ways.length === 0) return undefined;
    const limits = readLockedMemory(context.roots);
    const exemption = exemptionOf(context);
    const evidence = [limitSays(context, limits), ...exemption.evidence];
    if (exemption.isExempt) return ok('what it locks is not limited: it has CAP_IPC_LOCK', { evidence });
    if (limits === undefined)
      return unknown('the limit on locked memory does not show', {
        why: 'all of a guest’s memory is locked',
        evidence,
      });
    if (limits.limit === Infinity) return ok('what it locks is not limited', { evidence });
    if (memory === undefined)
      return unknown(`a guest of up to ${inMib(limits.limit)} fits the limit on locked memory`, {
        why: 'all of a guest’s memory is locked',
        evidence,
        advice: 'name its size: --memory SIZE',
      });
    return measured(machine, memory, ways, limits, evidence);
  },
  refusal(machine) {
    const { context, memory = [] } = machine;
    const limits = readLockedMemory(context.roots);
    if (limits === undefined) return undefined;
    const [how] = pinning(machine);
    const locked = how === 'group' ? limits.locked : 0;
    const range = firstBeyond(memory, limits.limit - locked);
    if (how === undefined || range === undefined) return undefined;
    const file = how === 'group' ? vfioPath(context, 'vfio') : join(context.roots.dev, 'iommu');
    return new SysError({
      call: how === 'group' ? 'VFIO_IOMMU_MAP_DMA' : 'IOMMU_IOAS_MAP',
      target: `${file}, IOVA ${formatRange(range.base, range.bytes)}`,
      errno: errno.ENOMEM,
      hint: noMemoryHint(context.roots, total(memory)),
    });
  },
};

/** Interfaces through which all of guest memory is pinned: mediated devices pin single pages, as they use them. */
const pinning = ({ devices }: CheckedMachine): readonly CheckInterface[] => {
  const physical = devices.filter(({ device }) => device?.bus === 'pci');
  return (['group', 'iommufd'] as const).filter((how) => physical.some((each) => each.interface === how));
};

const total = (memory: readonly GuestRange[]): number =>
  memory.reduce((sum, { bytes }) => sum + Number(bytes), 0);

/** The range whose map the kernel refuses when so many bytes may be locked. */
function firstBeyond(memory: readonly GuestRange[], allowed: number): GuestRange | undefined {
  let sum = 0;
  return memory.find(({ bytes }) => {
    sum += Number(bytes);
    return sum > allowed;
  });
}

function measured(
  machine: CheckedMachine,
  memory: readonly GuestRange[],
  ways: readonly CheckInterface[],
  { limit, hardLimit, locked }: LockedMemory,
  evidence: readonly CheckEvidence[],
): CheckFinding {
  const bytes = total(memory);
  const others = ways.includes('iommufd') ? pinnedByUser(machine.context) : 0;
  const counted = [
    ...(ways.includes('group') ? [`type1 counts each process: ${inMib(locked)} are locked in this one`] : []),
    ...(ways.includes('iommufd')
      ? [`iommufd counts each user: ${inMib(others)} are pinned by this one’s processes`]
      : []),
  ];
  const all = [...evidence, says('VmLck and VmPin in /proc/PID/status', counted.join('; '))];
  const needed = bytes + Math.max(ways.includes('group') ? locked : 0, others);
  const limited = `RLIMIT_MEMLOCK is ${inMib(limit)}`;
  if (needed <= limit) return ok(`${inMib(needed)} are to be locked, and ${limited}`, { evidence: all });
  const isSure = bytes + (ways.includes('group') ? locked : 0) > limit;
  const kib = Math.ceil(needed / 1024);
  const value = `${kib * 1024}${needed <= hardLimit ? ':' : ''}`;
  return (isSure ? fails : warning)(
    `${inMib(needed)} are to be locked, and ${limited} (hard limit ${inMib(hardLimit)})`,
    {
      why: 'all of a guest’s memory is locked, so that its devices find it (ENOMEM)',
      evidence: all,
      commands: [`prlimit --pid ${machine.lockingProcess} --memlock=${value}`],
      advice:
        `for good: "USER - memlock ${kib}" in /etc/security/limits.conf, or LimitMEMLOCK= in a systemd unit; ` +
        'or give the process CAP_IPC_LOCK',
    },
  );
}

function limitSays({ roots }: HostContext, limits: LockedMemory | undefined): CheckEvidence {
  const said =
    limits === undefined
      ? 'cannot be read'
      : `Max locked memory ${inMib(limits.limit)} (hard limit ${inMib(limits.hardLimit)})`;
  return says(join(roots.proc, 'self/limits'), said);
}

/** Whether the kernel does not count what this process locks. It asks in its first user namespace. */
function exemptionOf({ roots }: HostContext): { isExempt: boolean; evidence: CheckEvidence[] } {
  const status = join(roots.proc, 'self/status');
  const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(text(status) ?? '')?.[1];
  const has = effective !== undefined && ((BigInt(`0x${effective}`) >> CAP_IPC_LOCK) & 1n) === 1n;
  const evidence = [says(status, has ? 'CapEff has CAP_IPC_LOCK' : 'CapEff has no CAP_IPC_LOCK')];
  if (!has) return { isExempt: false, evidence };
  const uidMap = join(roots.proc, 'self/uid_map');
  const map = text(uidMap);
  if (map === undefined || INITIAL_UID_MAP.test(map)) return { isExempt: true, evidence };
  return {
    isExempt: false,
    evidence: [...evidence, says(uidMap, 'a user namespace, where it does not count')],
  };
}

/** Bytes that this user’s processes have pinned, by iommufd, io_uring and others, which share one count. */
function pinnedByUser({ roots }: HostContext): number {
  const uid = uidOf(text(join(roots.proc, 'self/status')));
  const pids = (list(roots.proc) ?? []).filter((name) => /^\d+$/.test(name));
  return pids
    .map((pid) => text(join(roots.proc, pid, 'status')))
    .filter((status) => status !== undefined && uidOf(status) === uid)
    .reduce((sum, status) => sum + Number(/^VmPin:\s+(\d+) kB/m.exec(status ?? '')?.[1] ?? 0) * 1024, 0);
}

const uidOf = (status: string | undefined): string | undefined => /^Uid:\s+(\d+)/m.exec(status ?? '')?.[1];
