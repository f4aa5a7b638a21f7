/** What a VM has in the kernel beside its vCPUs and memory, as sections: interrupt controllers, interval timer, clock. */
import type { SectionReader, StateSection } from '../sys/state-sections.js';
import * as uapi from './uapi.js';
import type { Vm } from './vm.js';

const VERSION = 1;
const PICS = [
  ['pic-master', uapi.KVM_IRQCHIP_PIC_MASTER],
  ['pic-slave', uapi.KVM_IRQCHIP_PIC_SLAVE],
] as const;

/** What the VM has in the kernel. */
export interface KernelChips {
  /** The full irqchip: I/O APIC and PICs. */
  readonly hasIrqchip: boolean;
  /** The interval timer. */
  readonly hasPit: boolean;
}

/** @throws SysError of the call that failed. All vCPUs are stopped */
export function saveVm(vm: Vm, { hasIrqchip, hasPit }: KernelChips): StateSection[] {
  const section = (name: string, data: Uint8Array) => ({ name: `vm/${name}`, version: VERSION, data });
  return [
    ...(hasIrqchip ? PICS.map(([name, chip]) => section(name, uapi.PicState.encode(vm.getPic(chip)))) : []),
    ...(hasIrqchip ? [section('ioapic', uapi.IoapicState.encode(vm.getIoapic()))] : []),
    ...(hasPit ? [section('pit', uapi.PitState2.encode(vm.getPit2()))] : []),
    section('clock', uapi.ClockData.encode({ clock: vm.getClock().clock })),
  ];
}

/**
 * Loads what {@link saveVm} has saved into a VM with the same chips, before its vCPUs run. The guest's clock (kvmclock) goes on
 * where it was.
 * @throws SysError as SectionReader.take; of the call that failed, with the section
 */
export function loadVm(vm: Vm, state: SectionReader, { hasIrqchip, hasPit }: KernelChips): void {
  const load = (name: string, bytes: number, use: (data: Uint8Array) => void): void =>
    state.load(`vm/${name}`, VERSION, bytes, use);
  if (hasIrqchip) {
    for (const [name, chip] of PICS)
      load(name, uapi.PicState.size, (data) => vm.setPic(chip, uapi.PicState.decode(data)));
    load('ioapic', uapi.IoapicState.size, (data) => vm.setIoapic(uapi.IoapicState.decode(data)));
  }
  if (hasPit) load('pit', uapi.PitState2.size, (data) => vm.setPit2(uapi.PitState2.decode(data)));
  load('clock', uapi.ClockData.size, (data) => vm.setClock({ clock: uapi.ClockData.decode(data).clock }));
}
