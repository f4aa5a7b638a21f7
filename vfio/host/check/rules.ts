/** The rules, in the order in which they are reported. */
import { device, driver } from './driver-rules.js';
import { inUse, peers, viability } from './group-rules.js';
import { interfaces } from './interface-rules.js';
import { interruptRemapping, iommu } from './iommu-rules.js';
import { memoryLock } from './memory-rules.js';
import { kvm, nodes } from './node-rules.js';
import { directMapping, reservedRanges } from './range-rules.js';
import { powerState, reset } from './reset-rules.js';
import { sriov, vfToken } from './sriov-rules.js';
import type { CheckedDevice, CheckedGroup, CheckedMachine, Rule } from './subject.js';

export const HOST_RULES: readonly Rule<CheckedMachine>[] = [kvm, interfaces, memoryLock, interruptRemapping];

export const DEVICE_RULES: readonly Rule<CheckedDevice>[] = [
  device,
  iommu,
  driver,
  vfToken,
  sriov,
  powerState,
  reset,
];

export const GROUP_RULES: readonly Rule<CheckedGroup>[] = [
  viability,
  directMapping,
  reservedRanges,
  inUse,
  nodes,
  peers,
];
