export { createVirtioBlkDriver, type VirtioBlkDriver, type VirtioBlkInstance } from './driver.js';
export { readDiskCounters, type VirtioBlkCounters } from './shared-state.js';
