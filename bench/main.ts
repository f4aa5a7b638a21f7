/** `npm run bench [-- NAME ...]`: runs the named benchmarks, or all. */
import { coreScale } from './core-scale.js';
import { dataPath } from './data-path.js';
import { exitCost } from './exit-cost.js';
import { mmioLatency } from './mmio-latency.js';
import { packets } from './packets.js';
import { startUp } from './start-up.js';
import { vfioUser } from './vfio-user.js';
import { vfioUserDma } from './vfio-user-dma.js';

const benchmarks: Readonly<Record<string, () => Promise<void>>> = {
  'exit-cost': exitCost,
  'start-up': startUp,
  packets,
  'data-path': dataPath,
  'core-scale': coreScale,
  'vfio-user': vfioUser,
  'vfio-user-dma': vfioUserDma,
  'mmio-latency': mmioLatency,
};

const wanted = process.argv.slice(2);
const unknown = wanted.filter((name) => !(name in benchmarks));
if (unknown.length > 0) {
  console.error(`unknown benchmark ${unknown.join(', ')}; choose from ${Object.keys(benchmarks).join(', ')}`);
  process.exitCode = 64;
} else {
  for (const [name, run] of Object.entries(benchmarks)) {
    if (wanted.length > 0 && !wanted.includes(name)) continue;
    console.log(`${name}`);
    await run();
  }
}
