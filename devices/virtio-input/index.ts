export { createVirtioInputDriver, type VirtioInputDriver, type VirtioInputInstance } from './driver.js';
export { readInputCounters, type VirtioInputCounters } from './shared-state.js';
