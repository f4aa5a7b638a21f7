/** Everything that a Linux guest needs besides devices: boot, ACPI, CPUID and MSRs. Loaded only for such a guest. @see linux-program.ts */
export { type CpuidOptions, linuxCpuid } from './cpuid.js';
export type { E820Range, PhysicalRange } from './e820.js';
export type { EntryState } from './entry.js';
export { type Initrd, openInitrd } from './initrd.js';
export { type LinuxKernel, parseKernel, readKernel } from './kernel.js';
export { firmwareLapic, firmwareMsrs, type MsrValue, physicalBits } from './msrs.js';
export { type LinuxOptions, type PreparedLinux, prepareLinux, renewGeneration } from './prepare.js';
export { setUpLinuxVcpu } from './vcpu.js';
