/**
 * Rules about devices of the host. An entry beside the provider's, which a machine loads at its start: only what checks devices
 * loads this one.
 */
export {
  type CheckDevice,
  type CheckParts,
  type CheckRequest,
  certainRefusal,
  checkHostDevices,
  isCheckable,
} from './check.js';
export { explainFailure } from './explain-failure.js';
export type {
  CheckEvidence,
  CheckFinding,
  CheckReport,
  CheckResult,
  CheckRuleName,
  CheckVerdict,
} from './finding.js';
export type { CheckInterface, GuestRange } from './subject.js';
