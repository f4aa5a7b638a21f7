/** Tokens of classes that open themselves: without a public constructor a class cannot be its own token. */

/** Token of the class Kvm of tsvisor/kvm. */
export const KvmToken = Symbol('Kvm');
/** Token of the class Vm of tsvisor/kvm. */
export const VmToken = Symbol('Vm');
/** Token of the class GsiRouting of tsvisor/kvm. */
export const GsiRoutingToken = Symbol('GsiRouting');
