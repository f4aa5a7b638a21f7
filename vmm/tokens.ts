/** Tokens of what opens itself: a class without a public constructor cannot be its own token. */
export const KvmToken = Symbol('Kvm');
export const VmToken = Symbol('Vm');
export const GsiRoutingToken = Symbol('GsiRouting');

/** The machine's configuration, checked. Its schema stays in the main thread: loading zod takes longer than booting a guest. */
export const VmConfigToken = Symbol('VmConfig');
