/**
 * For tests of your own: fakes of every port, a core in a box, a KVM with nothing behind it, a scheduler that chooses
 * who runs next, faults on demand, and the uAPI's rules as a suite.
 * @module
 */

export * from '../../vfio/testing/index.js';
export * from '../hostile/index.js';
export * from './fake-ports.js';
export { InlineEventThread } from './inline-event-thread.js';
