import { readFileSync } from 'node:fs';
import { SysError } from '../../sys/error.js';
import type { KernelQueues, NetBackend, NetCounters, NetOffloads, NetPair, NetPort } from './port.js';
import { linuxTap, tapOver, tapProblem } from './tap.js';
import type { TapSystem } from './tap-setup.js';
import { VhostNet, type VhostSystem } from './vhost-net.js';

/** A tap whose frames the kernel can move. Without that, it is a tap as any other. */
class VhostPort implements NetPort {
  readonly #tap: NetPort;
  readonly kernel: KernelQueues | { readonly refusal: string };
  readonly offloads?: NetOffloads;
  readonly setActive?: (isActive: boolean) => boolean;

  constructor(tap: NetPort, kernel: VhostPort['kernel']) {
    this.#tap = tap;
    this.kernel = kernel;
    if (tap.offloads !== undefined) this.offloads = tap.offloads;
    if (tap.setActive !== undefined) this.setActive = (isActive) => tap.setActive?.(isActive) ?? true;
  }

  get fd(): number {
    return this.#tap.fd;
  }

  get counters(): NetCounters {
    return this.#tap.counters;
  }

  transmit(parts: readonly Uint8Array[]): boolean {
    return this.#tap.transmit(parts);
  }

  pending(): number {
    return this.#tap.pending();
  }

  receive(parts: readonly Uint8Array[]): number {
    return this.#tap.receive(parts);
  }

  [Symbol.dispose](): void {
    if (!('refusal' in this.kernel)) this.kernel[Symbol.dispose]();
    this.#tap[Symbol.dispose]();
  }
}

function openVhost(taps: NetBackend, system: VhostSystem, address: string, pair?: NetPair): NetPort {
  const tap = pair === undefined ? taps.open(address) : (taps.openPair as OpenPair)(address, pair);
  try {
    const of = { name: address, fd: tap.fd, hasHeaders: tap.offloads !== undefined };
    return new VhostPort(tap, VhostNet.open(system, of));
  } catch (error) {
    if (error instanceof SysError) {
      const { call, target, code, hint } = error;
      const refusal = `${call} on ${target}: ${code}${hint === undefined ? '' : `; ${hint}`}`;
      return new VhostPort(tap, { refusal });
    }
    tap[Symbol.dispose]();
    throw error;
  }
}

type OpenPair = NonNullable<NetBackend['openPair']>;

/** The vhost back-end over the given system calls. */
export function vhostOver(system: TapSystem & VhostSystem): NetBackend {
  const taps = tapOver(system);
  return {
    name: 'vhost',
    validate: (address, pairs) => tapProblem(address, 'vhost', pairs),
    open: (address) => openVhost(taps, system, address),
    openPair: (address, pair) => openVhost(taps, system, address, pair),
    descriptors: (address) => taps.descriptors?.(address) ?? [],
  };
}

/**
 * Back-end `vhost:NAME` or `vhost:fd=N`: a tap as the back-end `tap` has it, with its rights, descriptors and errors, between which and
 * the guest's queues the kernel moves the frames (vhost-net, `modprobe vhost_net`). This process then sees no frame: its
 * counters stay at 0, the interface's own have them (`ip -s link show NAME`), and no MTU is enforced. Where vhost-net is missing or
 * forbidden, it is `tap`, and says so. Each queue pair has a file of vhost-net, and so a thread of the kernel, of its own.
 */
export const vhost: NetBackend = vhostOver({
  ...linuxTap,
  readText: (path) => readFileSync(path, 'latin1'),
});
