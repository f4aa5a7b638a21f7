/** A vCPU's state as sections: what KVM has of it, in the kernel's own structures. */
import { errno } from '../sys/errno.js';
import { SysError } from '../sys/error.js';
import type { SectionReader, StateSection } from '../sys/state-sections.js';
import { MsrEntry } from './uapi.js';
import * as uapi from './uapi-vcpu.js';
import type { Vcpu } from './vcpu.js';

const VERSION = 1;
const MSR_IA32_TSC_DEADLINE = 0x6e0;
/** More than any list of KVM's. */
const MOST_MSRS = 4096;

/**
 * Of `indices`, the MSRs that this vCPU has.
 * @param indices `Kvm.getMsrIndexList()`, which also names some that depend on CPUID
 */
export function msrsOf(vcpu: Vcpu, indices: readonly number[]): number[] {
  return indices.filter((index) => {
    try {
      return vcpu.getMsrs([index]).length === 1;
    } catch (error) {
      if (error instanceof SysError && error.errno === errno.EINVAL) return false;
      throw error;
    }
  });
}

/**
 * Saves a vCPU that stands at an instruction boundary: after `completeAccess()`, if it has exited for an access.
 * @param prefix of the sections' names: `vcpu 0`
 * @param msrs of {@link msrsOf}
 * @param hasLapic whether its local APIC is in the kernel
 * @throws SysError of the call that failed. Called in the vCPU's thread
 */
export function saveVcpu(
  vcpu: Vcpu,
  prefix: string,
  msrs: readonly number[],
  hasLapic: boolean,
): StateSection[] {
  const section = (name: string, data: Uint8Array) => ({ name: `${prefix}/${name}`, version: VERSION, data });
  return [
    section('tsc', new Uint8Array(Uint32Array.of(vcpu.getTscKhz()).buffer)),
    section('mp-state', uapi.MpState.encode({ mp_state: vcpu.getMpState() })),
    section('regs', uapi.Regs.encode(vcpu.getRegs())),
    section('sregs', uapi.Sregs.encode(vcpu.getSregs())),
    section('xsave', vcpu.getXsave()),
    section('xcrs', encodeXcrs(vcpu.getXcrs())),
    section('debugregs', uapi.DebugRegs.encode(vcpu.getDebugRegs())),
    ...(hasLapic ? [section('lapic', vcpu.getLapic())] : []),
    section('msrs', encodeEntries(vcpu.getMsrs(msrs))),
    section('events', uapi.VcpuEvents.encode(vcpu.getVcpuEvents())),
  ];
}

/**
 * Loads what {@link saveVcpu} has saved into a new vCPU with the same CPUID, which has not run. Takes its sections.
 * @throws SysError as SectionReader.take; of the call that failed, with the section, as for a TSC frequency that this processor
 *   lacks, or an MSR. The vCPU is then of no use
 */
export function loadVcpu(vcpu: Vcpu, prefix: string, state: SectionReader, hasLapic: boolean): void {
  const load = (name: string, bytes: number | undefined, use: (data: Uint8Array) => void): void =>
    state.load(`${prefix}/${name}`, VERSION, bytes, use);
  load('tsc', 4, (data) => {
    const khz = new DataView(data.buffer, data.byteOffset).getUint32(0, true);
    if (khz !== vcpu.getTscKhz()) vcpu.setTscKhz(khz);
  });
  load('mp-state', uapi.MpState.size, (data) => vcpu.setMpState(uapi.MpState.decode(data).mp_state));
  load('regs', uapi.Regs.size, (data) => vcpu.setRegs(uapi.Regs.decode(data)));
  load('sregs', uapi.Sregs.size, (data) => vcpu.setSregs(uapi.Sregs.decode(data)));
  load('xcrs', uapi.Xcrs.size, (data) => vcpu.setXcrs(decodeXcrs(data)));
  load('xsave', vcpu.getXsave().length, (data) => vcpu.setXsave(Uint8Array.from(data)));
  load('debugregs', uapi.DebugRegs.size, (data) => vcpu.setDebugRegs(uapi.DebugRegs.decode(data)));
  // After sregs, which have the APIC's base, and before the MSRs: the deadline of its timer depends on the timer's mode.
  if (hasLapic) load('lapic', uapi.LapicState.size, (data) => vcpu.setLapic(Uint8Array.from(data)));
  load('msrs', undefined, (data) => loadMsrs(vcpu, decodeEntries(data)));
  load('events', uapi.VcpuEvents.size, (data) => vcpu.setVcpuEvents(uapi.VcpuEvents.decode(data)));
}

/** KVM refuses some MSRs even if nothing changes: they are written only if they differ. */
function loadMsrs(vcpu: Vcpu, entries: readonly MsrEntry[]): void {
  const last = (entry: MsrEntry) => (entry.index === MSR_IA32_TSC_DEADLINE ? 1 : 0); // counts from the TSC
  for (const entry of [...entries].sort((a, b) => last(a) - last(b))) {
    const [now] = vcpu.getMsrs([entry.index]);
    if (now?.data !== entry.data) vcpu.setMsrs([entry]);
  }
}

function encodeXcrs(values: ReadonlyMap<number, bigint>): Uint8Array {
  const xcrs = [...values].map(([xcr, value]) => ({ xcr, reserved: 0, value }));
  return uapi.Xcrs.encode({ nr_xcrs: xcrs.length, xcrs });
}

function decodeXcrs(data: Uint8Array): ReadonlyMap<number, bigint> {
  const { nr_xcrs, xcrs } = uapi.Xcrs.decode(data);
  if (nr_xcrs > xcrs.length) throw new RangeError(`${nr_xcrs} registers`);
  return new Map(xcrs.slice(0, nr_xcrs).map(({ xcr, value }) => [xcr, value]));
}

function encodeEntries(entries: readonly MsrEntry[]): Uint8Array {
  const bytes = new Uint8Array(entries.length * MsrEntry.size);
  for (const [i, entry] of entries.entries()) MsrEntry.write(bytes, entry, i * MsrEntry.size);
  return bytes;
}

function decodeEntries(data: Uint8Array): MsrEntry[] {
  const count = data.length / MsrEntry.size;
  if (!Number.isInteger(count) || count > MOST_MSRS) throw new RangeError(`${data.length} bytes of MSRs`);
  return Array.from({ length: count }, (_, i) => MsrEntry.decode(data, i * MsrEntry.size));
}
