/** Tokens of classes without a public constructor, which cannot be their own tokens. */

/** Token of the class Kvm of tsvisor/kvm. */
export const KvmToken = Symbol('Kvm');
/** Token of the class Vm of tsvisor/kvm. */
export const VmToken = Symbol('Vm');
/** Token of the class GsiRouting of tsvisor/kvm. */
export const GsiRoutingToken = Symbol('GsiRouting');
