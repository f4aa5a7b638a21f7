export {
  createVirtioNetDriver,
  type NetBackendModule,
  type VirtioNetDriver,
  type VirtioNetInstance,
} from './driver.js';
export { netBackends } from './net-backends.js';
export { createQueueTask } from './queue-task.js';
export { readCounters, type VirtioNetCounters } from './shared-state.js';
