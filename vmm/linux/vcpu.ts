import type { Vcpu } from '../../kvm/vcpu.js';
import { type CpuidOptions, linuxCpuid } from './cpuid.js';
import { firmwareLapic, firmwareMsrs, physicalBits } from './msrs.js';

/**
 * Sets a vCPU's CPUID, MSRs and local APIC to what Linux expects from firmware. Call it before the vCPU's first run;
 * {@link PreparedLinux.entry} is the boot processor's start state.
 * @throws SysError EINVAL naming the MSR that KVM rejects
 */
export function setUpLinuxVcpu(vcpu: Vcpu, options: Omit<CpuidOptions, 'tscKhz'>): void {
  vcpu.setCpuid2(linuxCpuid({ ...options, tscKhz: vcpu.getTscKhz() }));
  vcpu.setMsrs(firmwareMsrs(physicalBits(options.supported)));
  vcpu.setLapic(firmwareLapic(vcpu.getLapic(), options.apicId === 0));
}
