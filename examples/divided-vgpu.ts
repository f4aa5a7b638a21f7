/**
 * A card that is divided: vGPUs of different shares on two cards with different placement policies, one of them written here. It
 * prints the account of each card, and what the driver says when the pool is short. Needs nothing: no KVM, no root, no guest.
 *
 *   node dist/examples/divided-vgpu.js
 */
import { createVgpuDriver, type PlacementPolicy } from 'tsvisor/devices';
import { type MdevParentState, VfioCore } from 'tsvisor/vfio';

/** Instances grow from the end of the card's memory; nothing is aligned. */
const fromTheEnd: PlacementPolicy = {
  name: 'from-the-end',
  place(size, { size: all, taken }) {
    const lowest = Math.min(all, ...taken.map(({ offset }) => offset));
    return lowest >= size ? lowest - size : `only ${lowest} MiB lie below the last instance`;
  },
};

using core = new VfioCore();
// A display has no task, so the thread that would run it is never asked.
const eventThread = {
  run: (): never => {
    throw new Error('a display has no task');
  },
};
const driver = createVgpuDriver({
  cards: [
    { name: 'left', memoryMib: 128, placement: 'same-size' },
    { name: 'right', memoryMib: 256, engines: 8, placement: 'from-the-end' },
  ],
  placements: [fromTheEnd],
});
using _registered = core.registerVendorDriver(driver, { eventThread });

/** Makes a vGPU, as `--device vgpu-half,card=left` does for a machine. */
function attempt(type: string, card: string): Disposable | undefined {
  try {
    const device = core.provider.resolve(type, { card });
    console.log(`${type} on ${card}: made`);
    return device;
  } catch (error) {
    // Instances have random UUIDs.
    console.log((error as Error).message.replace(/[0-9a-f]{8}-[-0-9a-f]{27}/g, 'UUID'));
    return undefined;
  }
}

function print({ name, resources, availableInstances, instances }: MdevParentState): void {
  const left = resources.map((each) =>
    `${each.left} of ${each.total} ${each.unit} ${each.name}`.replace('  ', ' '),
  );
  console.log(`${name}: ${left.join(', ')} left`);
  for (const { type, uses } of instances)
    console.log(`  ${type}: ${uses['video memory']}, engines ${uses.engines}`);
  const types = Object.entries(availableInstances).filter(([, count]) => count > 0);
  console.log(
    `  could have: ${types.map(([type, count]) => `${count} ${type}`).join(', or ') || 'nothing more'}`,
  );
}

const devices = [
  attempt('vgpu-half', 'left'),
  attempt('vgpu-quarter', 'left'), // same-size: all as the first
  attempt('vgpu-large', 'left'), // as many MiB as half of this card
  attempt('vgpu-half', 'right'),
  attempt('vgpu-quarter', 'right'),
  attempt('vgpu-half', 'right'),
];
core.mdevs.parents.forEach(print);

for (const device of devices) device?.[Symbol.dispose]();
console.log('after all are removed:');
core.mdevs.parents.forEach(print);
