/** How long a served device takes to read its client's memory: shared, and through messages. */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { compileC, interleave, microseconds, scratchFolder, serving } from './measure.js';
import type { Report } from './report.js';

const ROUNDS = 5;
const SIZES = [64, 4096, 65_536];
const TIMES = { fd: 20_000, message: 2000 };
const plugin = fileURLToPath(new URL('./dma-engine-plugin.js', import.meta.url));

export async function vfioUserDma(report: Report): Promise<void> {
  using folder = scratchFolder();
  const peer = compileC('vfio-user-peer', folder.path);
  const [inC, ours] = [join(folder.path, 'c.sock'), join(folder.path, 'ours.sock')];
  await using _c = await serving(peer, ['server', inC]);
  await using _ours = await serving(process.execPath, [
    'serve',
    'dma-engine',
    '--plugin',
    plugin,
    '--socket',
    ours,
  ]);
  for (const how of ['fd', 'message'] as const) {
    for (const bytes of SIZES) {
      const by = (path: string) => () => {
        const args = ['dma', path, `${TIMES[how]}`, `${bytes}`, how];
        return Number(execFileSync(peer, args, { encoding: 'utf8' }));
      };
      const { C = Number.NaN, tsvisor = Number.NaN } = await interleave(ROUNDS, {
        C: by(inC),
        tsvisor: by(ours),
      });
      const name = how === 'fd' ? 'shared memory' : 'DMA_READ messages';
      report.line(
        `  ${bytes} bytes by ${name}: C ${microseconds(C)}, tsvisor ${microseconds(tsvisor)} (${(tsvisor / C).toFixed(2)} x C)`,
      );
      const [mine, theirs] = [`${bytes} bytes by ${name}, tsvisor`, `${bytes} bytes by ${name}, C`];
      report.add({ benchmark: 'vfio-user-dma', name: theirs, unit: 'ns', value: C });
      report.add({
        benchmark: 'vfio-user-dma',
        name: mine,
        unit: 'ns',
        value: tsvisor,
        ratio: { to: theirs, value: tsvisor / C },
      });
    }
  }
}
