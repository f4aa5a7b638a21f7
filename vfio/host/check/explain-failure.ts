/** What the rules know of a call that has failed, where the kernel has one errno for several causes. */
import { SysError } from '../../../sys/error.js';
import { type CheckParts, type CheckRequest, checkHostDevices } from './check.js';
import type { CheckResult, CheckRuleName } from './finding.js';

/** A failure that a rule can explain. */
interface Explanation {
  readonly rule: CheckRuleName;
  readonly calls: RegExp;
  /** Names of errnos. */
  readonly codes: RegExp;
}

/** All other causes are named by the call's own hint. */
const EXPLANATIONS: readonly Explanation[] = [
  {
    rule: 'direct-mapping',
    calls: /^VFIO_(?:GROUP_SET_CONTAINER|SET_IOMMU|DEVICE_BIND_IOMMUFD|DEVICE_ATTACH_IOMMUFD_PT)$/,
    codes: /^(?:EINVAL|EPERM)$/,
  },
  {
    rule: 'reserved-ranges',
    calls: /^(?:VFIO_GROUP_SET_CONTAINER|VFIO_IOMMU_MAP_DMA|VFIO_DEVICE_ATTACH_IOMMUFD_PT|IOMMU_IOAS_MAP)$/,
    codes: /^(?:EINVAL|EADDRINUSE)$/,
  },
  {
    rule: 'vf-token',
    calls: /^VFIO_GROUP_GET_DEVICE_FD$/,
    codes: /^EINVAL$/,
  },
  {
    rule: 'interrupt-remapping',
    calls: /^VFIO_DEVICE_(?:BIND_IOMMUFD|ATTACH_IOMMUFD_PT)$/,
    codes: /^EPERM$/,
  },
  {
    rule: 'power-state',
    // Linux 6.12 opens a device that does not answer: it is the first look at its configuration space that fails.
    calls: /^(?:VFIO_GROUP_GET_DEVICE_FD|VFIO_DEVICE_BIND_IOMMUFD|read)$/,
    codes: /^(?:EIO|EINVAL|ENODEV)$/,
  },
];

/**
 * The same error with the cause that the rules find for it, and the commands that mend it, in its hint; unchanged if they
 * find none. Reads what {@link checkHostDevices} reads, if the failed call is one that a rule can explain.
 * @param error what an attachment threw
 * @param request what was to be attached
 */
export function explainFailure(error: unknown, request: CheckRequest, parts: CheckParts = {}): unknown {
  if (!(error instanceof SysError)) return error;
  const rules = EXPLANATIONS.filter(
    ({ calls, codes }) => calls.test(error.call) && codes.test(error.code),
  ).map(({ rule }) => rule);
  if (rules.length === 0) return error;
  const causes = checkHostDevices(request, parts).results.filter(
    ({ rule, verdict }) => verdict === 'fails' && rules.includes(rule),
  );
  if (causes.length === 0) return error;
  const { call, target, errno } = error;
  const lines = causes.map(sentence);
  const hint = [...lines, ...(error.hint === undefined ? [] : [error.hint])].join('\n    ');
  return new SysError({ call, target, errno, hint, cause: error });
}

function sentence({ subject, text, why, commands, advice }: CheckResult): string {
  const reason = why === undefined ? '' : `: ${why}`;
  const fix = commands.length === 0 ? '' : `\n    fix:${commands.map((line) => `\n      ${line}`).join('')}`;
  return `${subject}: ${text}${reason}${advice === undefined ? '' : `; ${advice}`}${fix}`;
}
