export { createTestCardDriver, type TestCardDriver, type TestCardInstance } from './driver.js';
export { FAILING_CALLS, type FailingCall, type Failure, failingOps } from './failing-ops.js';
export { FAULT_NAMES, type FaultName } from './faults.js';
export * as testCard from './spec.js';
