/** Devices whose packets fake kernels move. */

import { iova } from '../../../sys/address.js';
import type { GuestMisuseEvent, VfioEvent } from '../../../sys/trace.js';
import type { NetBackend, NetPair } from '../../net/index.js';
import { FakeVhostKernel } from '../../net/testing/fake-vhost-kernel.js';
import { vhostOver } from '../../net/vhost.js';
import { hearDevices } from '../../virtio/testing/hear.js';
import type { GuestMap } from './guest.js';
import { Workbench } from './workbench.js';

export const frameOf = (length: number, seed = 0): Uint8Array =>
  Uint8Array.from({ length }, (_, i) => (seed + 7 * i) & 0xff);

export const withHeader = (frame: Uint8Array): Uint8Array =>
  Uint8Array.from([...new Uint8Array(12), ...frame]);

/** What devices tell, and what guests do wrong, until the test's end. */
export function hear(): { readonly told: string[]; readonly misuses: string[] } {
  const heard = { told: [] as string[], misuses: [] as string[] };
  const tell = ({ what, text }: VfioEvent) => {
    if (what === 'packet path' || what === 'remote memory' || what === 'link down')
      heard.told.push(text ?? '');
  };
  const note = ({ text }: GuestMisuseEvent) => heard.misuses.push(text);
  hearDevices(tell, note);
  return heard;
}

/** A back-end that opens each queue pair in a kernel of its own. */
export function vhostOf(kernels: readonly FakeVhostKernel[]): NetBackend {
  const backends = kernels.map(vhostOver);
  return {
    ...backends[0]!,
    openPair: (address: string, pair: NetPair) => backends[pair.index]!.openPair!(address, pair),
  };
}

/** The threads of the kernels and this one, until all are at rest. */
export function settle(bench: Workbench, kernels: readonly FakeVhostKernel[]): void {
  for (let idle = 0; idle < 3; ) {
    bench.thread.pump();
    idle = kernels.reduce((sum, kernel) => sum + kernel.work(), 0) > 0 ? 0 : idle + 1;
  }
  bench.thread.pump();
}

/** Unmaps as the core does: the device is told, and then the table changes. */
export function unmap(bench: Workbench, gone: GuestMap, rest: readonly GuestMap[]): void {
  bench.instance.ops.dmaUnmap?.(iova(BigInt(gone.iova)), BigInt(gone.bytes));
  bench.memory.map(rest);
}

/** Where {@link open}'s `send` has its frames. */
export const TX = 0x18_0000;

/** A device over vhost-net, in a fake kernel that a test may change before. */
export function open(
  options: Record<string, string> = {},
  prepare: (kernel: FakeVhostKernel) => void = () => {},
) {
  const kernel = new FakeVhostKernel();
  prepare(kernel);
  const bench = new Workbench({ net: 'vhost:tap0', ...options }, [vhostOf([kernel])]);
  const turn = () => settle(bench, [kernel]);
  const send = (frame: Uint8Array, address = TX) => {
    bench.driver.send(frame, address);
    bench.driver.ring(1);
    turn();
  };
  return {
    ...{ kernel, bench, turn, send },
    [Symbol.dispose]: () => bench[Symbol.dispose](),
  };
}
