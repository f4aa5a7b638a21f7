import { parseExitCauses } from './exit-causes.js';
import { GuestLab } from './guest-lab.js';
import { bootCommand, type Vmm } from './guests.js';
import { l2CommandLine } from './l2.js';

const TIMEOUT_MS = 180_000;
const vmms: readonly (readonly [name: string, vmm: Vmm])[] = [
  ['tsvisor', 'tsvisor'],
  ['QEMU q35', 'qemu'],
];

/**
 * Boots Linux with an assigned e1000e to its first program and off again, under tsvisor and under Debian's QEMU, and prints how often each
 * came back to the VMM, by cause. QEMU's include those of its firmware.
 * @throws Error if a guest does not run to its end
 */
export async function countExits(): Promise<void> {
  await using lab = new GuestLab();
  const { l1 } = await lab.l1({ devices: ['e1000e'] });
  const bound = await l1.run('vfio-bind $LAB_E1000E');
  if (bound.status !== 0) throw new Error(bound.output);
  const counted: (readonly [name: string, causes: ReadonlyMap<string, number>])[] = [];
  for (const [name, vmm] of vmms) {
    const boot = bootCommand(vmm, 'group', l2CommandLine({ checks: ['dhcp'] }));
    const command = `devices=$LAB_E1000E; exit-causes ${boot}`;
    const { output, status } = await l1.run(command, { timeoutMs: TIMEOUT_MS });
    if (status !== 0) throw new Error(`${name} ended with ${status}\n${output}`);
    const causes = parseExitCauses(output);
    const all = [...causes.values()].reduce((sum, count) => sum + count, 0);
    counted.push([name, new Map([...causes, ['all', all]])]);
  }
  const causes = new Set(
    counted.flatMap(([, counts]) => [...counts.keys()].filter((cause) => cause !== 'all')),
  );
  const row = (cause: string) =>
    Object.fromEntries(counted.map(([name, counts]) => [name, counts.get(cause) ?? 0]));
  console.table(Object.fromEntries([...causes, 'all'].map((cause) => [cause, row(cause)])));
}
