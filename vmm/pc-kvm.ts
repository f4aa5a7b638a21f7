/** Registers /dev/kvm, set up for a PC, with the machine's container, except for ports that a plug-in registered. */
import { GsiRouting, type GsiTarget } from '../kvm/gsi-routing.js';
import { Kvm } from '../kvm/system.js';
import { KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER } from '../kvm/uapi.js';
import type { Vm } from '../kvm/vm.js';
import type { Scope } from '../sys/scope.js';
import { registerDefault } from './assign/register.js';
import { GsiRoutingToken, KvmToken, VmToken } from './assign/tokens.js';
import type { DependencyContainer } from './injection.js';
import * as layout from './layout.js';

/** GSI 0, which the 8254 raises, leads to another pin of the I/O APIC, as on any PC. */
const TIMER_TARGETS: readonly GsiTarget[] = [
  { kind: 'pin', irqchip: KVM_IRQCHIP_PIC_MASTER, pin: 0 },
  { kind: 'pin', irqchip: KVM_IRQCHIP_IOAPIC, pin: layout.TIMER_GSI },
];

/** Device assignment needs these; every KVM of the last decade has them. */
const NEEDED = [
  'KVM_CAP_IRQCHIP',
  'KVM_CAP_IRQ_ROUTING',
  'KVM_CAP_IRQFD',
  'KVM_CAP_IRQFD_RESAMPLE',
  'KVM_CAP_IOEVENTFD',
  'KVM_CAP_IOEVENTFD_ANY_LENGTH',
  'KVM_CAP_IMMEDIATE_EXIT',
] as const;

/** @param scope owns the VM and everything else that is opened */
export function registerPcKvm(container: DependencyContainer, scope: Scope): void {
  registerDefault(container, KvmToken, () => {
    const kvm = scope.own(Kvm.open());
    kvm.requireExtensions(NEEDED);
    return kvm;
  });
  registerDefault(container, VmToken, () => scope.own(createVm(container.resolve<Kvm>(KvmToken))));
  registerDefault(container, GsiRoutingToken, () => {
    const routing = GsiRouting.create(container.resolve<Vm>(VmToken), {
      isIoapicRouted: true,
      isPicRouted: true,
    });
    routing.set(0, TIMER_TARGETS);
    return routing;
  });
}

function createVm(kvm: Kvm): Vm {
  const vm = kvm.createVm();
  vm.setTssAddr(layout.KVM_TSS_ADDRESS);
  vm.setIdentityMapAddr(layout.KVM_IDENTITY_MAP_ADDRESS);
  vm.createIrqchip();
  vm.createPit2();
  // The exit then carries the instruction that KVM cannot emulate, for the crash report.
  if (vm.checkExtension('KVM_CAP_EXIT_ON_EMULATION_FAILURE') > 0)
    vm.enableCap('KVM_CAP_EXIT_ON_EMULATION_FAILURE', 1n);
  return vm;
}
