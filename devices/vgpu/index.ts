export type { VgpuCardOptions } from './card.js';
export type { VgpuDevice } from './device.js';
export type { Plane } from './dispi.js';
export { createVgpuDriver, type VgpuDriverOptions, type VgpuInstance } from './driver.js';
export { type Extent, PLACEMENT_POLICIES, type PlacementMemory, type PlacementPolicy } from './placement.js';
