/**
 * A guest that draws and exchanges datagrams is saved at random moments; its process is killed, and a new one goes on.
 * TSVISOR_STOPS says how often in all, TSVISOR_STOPS_SEED when, TSVISOR_STOPS_EACH how much work each guest has.
 */
import type { ChildProcess } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { DeviceServer } from '../device-server.js';
import { datagramsOf, ENDED, RunProcess } from '../testing/run-process.js';
import { killAll } from '../testing/serving.js';

const STOPS = Number(process.env.TSVISOR_STOPS ?? 10);
const SEED = Number(process.env.TSVISOR_STOPS_SEED ?? Date.now() % 1_000_000);
/** Datagrams of one guest; it draws a tenth as many pictures. */
const DATAGRAMS = Number(process.env.TSVISOR_STOPS_DATAGRAMS ?? 20_000);
/** A guest runs for up to this long between two stops. */
const RUNS_MS = Number(process.env.TSVISOR_STOPS_RUNS_MS ?? 60);
const FLIPS = Math.ceil(DATAGRAMS / 10);

/** What a guest has: one of the two is another process's, or at least another thread's, which stays. */
const CARDS = [
  {
    name: 'a NIC and a served vgpu',
    device: 'virtio-net,net=responder',
    served: { address: 'vgpu-small' },
    shows: false,
  },
  {
    name: 'a vgpu and a served NIC',
    device: 'vgpu-small',
    served: { address: 'virtio-net', options: { net: 'responder' } },
    shows: true,
  },
] as const;

let folder: string;
let running: ChildProcess[];
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'stops-'));
  running = [];
});
afterEach(async () => {
  await killAll(running);
  rmSync(folder, { recursive: true, force: true });
});

test.each(CARDS)(
  `a guest with $name works to its end, though its process is killed and another goes on, ${STOPS} times`,
  async ({ device, served, shows }) => {
    console.log(`TSVISOR_STOPS_SEED=${SEED}`);
    let random = SEED;
    const below = (most: number): number => {
      random = (random * 1103515245 + 12345) % 2 ** 31;
      return (random / 2 ** 31) * most;
    };
    const path = join(folder, 'served');
    await using server = DeviceServer.start({ ...served, path });
    const saved = join(folder, 'saved');
    const png = join(folder, 'picture');
    const shown = shows ? ['--screenshot', png] : [];
    const cards = ['--device', device, '--device', `vfio-user:${path}`, ...shown];
    const guest = `flips=${FLIPS} udp=${DATAGRAMS},64,4 pings=2`;
    const boot = ['--memory', '16M', ...cards, '--append', guest];
    const start = (name: string, args: readonly string[]) => new RunProcess(folder, name, args, running);
    const result = async (run: RunProcess) => {
      const left = await run.result();
      const { echoed, late, corrupt } = datagramsOf(left);
      expect({ all: echoed + late, corrupt }, left.stderr).toEqual({ all: DATAGRAMS, corrupt: 0 });
      expect(left.status, left.stderr).toBe(late === 0 ? 0 : 1);
      const picture = shows ? readFileSync(png) : await server.screenshot();
      return createHash('sha256').update(picture).digest('hex');
    };
    const plain = await result(start('plain', boot));
    for (let stops = 0, guests = 0; stops < STOPS; guests++) {
      let run = start(`${guests}`, boot);
      for (let part = 1; ; part++) {
        if (stops >= STOPS) {
          expect(await result(run)).toBe(plain);
          break;
        }
        await run.started();
        await sleep(below(RUNS_MS));
        const refused = await run.api.call('POST', '/v1/snapshot', { folder: saved }).then(
          () => undefined,
          (error: Error) => error,
        );
        if (refused !== undefined) {
          expect(refused.message).toMatch(ENDED);
          expect(await result(run)).toBe(plain);
          break;
        }
        await run.kill();
        stops++;
        if (stops % 10 === 0) console.log(`${stops} stops, ${guests} guests are done`);
        run = start(`${guests}.${part}`, ['--restore', saved, ...shown]);
      }
      rmSync(saved, { recursive: true, force: true });
    }
  },
  3_600_000,
);
