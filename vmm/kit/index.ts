/**
 * For tests of your own: fakes of every port, a core in a box, a KVM with nothing behind it, a scheduler that chooses
 * who runs next, faults on demand, and the uAPI's rules as a suite; guests under QEMU; machines that start where one has booted.
 * @module
 */

export * from '../../devices/testing/index.js';
export { BootedMachine, type BootOptions, type SavableMachine } from './booted-machine.js';
export { FreshMachine, type SaysOptions, type TestedMachine } from './fresh-machine.js';
