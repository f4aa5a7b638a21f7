/** The rules for devices of the host, as a run uses them. Loaded only for a machine that has one. */
import { HOST_ADDRESSES } from '../vfio/addresses.js';
import { type CheckRequest, certainRefusal, explainFailure, isCheckable } from '../vfio/host/check/index.js';
import type { HostProvider } from '../vfio/host/index.js';
import type { VfioProvider } from '../vfio/provider.js';
import { providerOf } from '../vfio/provider-of.js';
import type { VmConfig } from './config.js';
import { pcRam } from './ram-layout.js';

type Machine = Pick<VmConfig, 'devices' | 'memory'>;

const isHost = (provider: VfioProvider | undefined): provider is HostProvider =>
  provider?.name === HOST_ADDRESSES.name && 'context' in provider;

const requestOf = ({ devices, memory }: Machine): CheckRequest => ({
  devices: devices.filter(({ address }) => isCheckable(address)),
  memory: pcRam(memory),
});

/**
 * Refuses devices that certainly cannot be assigned, before anything is opened or bound.
 * @param providers the first that matches an address has it; the rules are for those of the host's provider
 * @throws SysError of the call that would fail
 */
export function refuseHopeless(providers: readonly VfioProvider[], machine: Machine): void {
  for (const provider of providers.filter(isHost)) {
    const devices = machine.devices.filter(({ address }) => providerOf(providers, address) === provider);
    const request = requestOf({ ...machine, devices });
    const refusal = request.devices.length === 0 ? undefined : certainRefusal(request, provider.context);
    if (refusal !== undefined) throw refusal;
  }
}

/** The error that ended a machine, with the cause that the rules know. */
export function explained(error: unknown, machine: Machine): unknown {
  try {
    return explainFailure(error, requestOf(machine));
  } catch {
    return error; // a device has gone in the meantime; that it failed counts more
  }
}
