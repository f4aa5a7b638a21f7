import type { Vcpu } from '../../kvm/vcpu.js';
import { type CpuidOptions, linuxCpuid } from './cpuid.js';
import { firmwareLapic, firmwareMsrs, physicalBits } from './msrs.js';

/**
 * Makes a processor what a Linux guest expects to be started on: CPUID, MSRs, local APIC. Before its first run; where
 * the boot processor starts is {@link PreparedLinux.entry}.
 * @throws SysError EINVAL naming the MSR that KVM refuses
 */
export function setUpLinuxVcpu(vcpu: Vcpu, options: Omit<CpuidOptions, 'tscKhz'>): void {
  vcpu.setCpuid2(linuxCpuid({ ...options, tscKhz: vcpu.getTscKhz() }));
  vcpu.setMsrs(firmwareMsrs(physicalBits(options.supported)));
  vcpu.setLapic(firmwareLapic(vcpu.getLapic(), options.apicId === 0));
}
