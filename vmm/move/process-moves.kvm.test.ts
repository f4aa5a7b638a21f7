/**
 * A guest that draws and exchanges datagrams moves from process to process. TSVISOR_PROCESS_MOVES says how often, and how often one
 * of the two is killed meanwhile, TSVISOR_MOVES_SEED which and when, TSVISOR_MOVE_DATAGRAMS how much work a guest has.
 */
import type { ChildProcess } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { datagramsOf, ENDED, RunProcess } from '../testing/run-process.js';
import { killAll } from '../testing/serving.js';
import type { MoveResult } from './source.js';

const MOVES = Number(process.env.TSVISOR_PROCESS_MOVES ?? 5);
const SEED = Number(process.env.TSVISOR_MOVES_SEED ?? Date.now() % 1_000_000);
const DATAGRAMS = Number(process.env.TSVISOR_MOVE_DATAGRAMS ?? 200_000);
/** Within this time after its begin, one of the two is killed. */
const KILLED_MS = Number(process.env.TSVISOR_MOVE_KILLED_MS ?? 300);
/** A target ends by then if its source has. */
const UNSEEN_MS = 40_000;
const PATIENT = { downtimeMs: 60_000, timeoutMs: 60_000 };
const BOOT = [
  ...['--memory', '16M', '--device', 'virtio-net,net=responder', '--device', 'vgpu-small'],
  ...['--append', `flips=20 udp=${DATAGRAMS},64,4 pings=2`],
];

let folder: string;
let running: ChildProcess[];
let processes = 0;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'moves-'));
  running = [];
});
afterEach(async () => {
  await killAll(running);
  rmSync(folder, { recursive: true, force: true });
});

/** The machine, wherever it is now. All processes are numbered. */
class MovingMachine {
  #here: RunProcess;

  constructor() {
    this.#here = this.#start(BOOT);
  }

  #start(args: readonly string[]): RunProcess {
    return new RunProcess(folder, `${processes++}`, args, running);
  }

  /** A guest from the beginning, if there is none. */
  boot(): void {
    this.#here = this.#start(BOOT);
  }

  /** The next process, which waits for the machine. */
  async #next(): Promise<{ there: RunProcess; address: string }> {
    const path = join(folder, `to-${processes}`);
    const there = this.#start(['--incoming', `unix:${path}`]);
    await there.listens(path);
    await this.#here.started();
    return { there, address: `unix:${path}` };
  }

  /** @returns undefined if the guest was done before the move */
  async move(): Promise<MoveResult | undefined> {
    const { there, address } = await this.#next();
    try {
      const { body } = await this.#here.api.call('POST', '/v1/move', { address, ...PATIENT });
      const left = await this.#here.result();
      expect(left.status, left.stderr).toBe(0);
      this.#here = there;
      return JSON.parse(body.toString()) as MoveResult;
    } catch (error) {
      expect(String(error)).toMatch(ENDED);
      await there.kill();
      return undefined;
    }
  }

  /** Moves it, and kills one of the two after a while. @returns where a guest is left */
  async killed(victim: 'source' | 'target', afterMs: number): Promise<'here' | 'there' | 'nowhere'> {
    const { there, address } = await this.#next();
    const here = this.#here;
    const moved = here.api.call('POST', '/v1/move', { address, ...PATIENT }).then(
      () => undefined,
      (error: Error) => error,
    );
    await sleep(afterMs);
    await (victim === 'source' ? here : there).kill();
    const failure = await moved;
    if (victim === 'target') {
      if (failure === undefined || /ENOTRECOVERABLE/.test(failure.message)) return 'nowhere';
      return 'here';
    }
    // It runs there if it has the last word. If not, it ends, or has not yet seen anybody.
    await Promise.race([there.started(), sleep(UNSEEN_MS)]);
    if (!(await there.isUp())) return 'nowhere';
    this.#here = there;
    return 'there';
  }

  /** Its guest's work is whole. */
  async works(): Promise<void> {
    const result = await this.#here.result();
    const { echoed, late, corrupt } = datagramsOf(result);
    expect({ all: echoed + late, corrupt }, result.stderr).toEqual({ all: DATAGRAMS, corrupt: 0 });
    expect(result.status, result.stderr).toBe(late === 0 ? 0 : 1);
  }
}

test(`a guest at work moves from process to process ${MOVES} times, and loses nothing`, async () => {
  const machine = new MovingMachine();
  for (let moves = 0, guests = 0; moves < MOVES; ) {
    const result = await machine.move();
    if (result === undefined) {
      await machine.works();
      expect(moves, 'a guest is done before it can move: it needs more datagrams').toBeGreaterThan(guests++);
      machine.boot();
      continue;
    }
    moves++;
    const { downtimeMs, ms, rounds, sentBytes } = result;
    console.log(
      `move ${moves}, guest ${guests}: ${Math.round(downtimeMs)} ms down of ${Math.round(ms)}, ${rounds} rounds, ${sentBytes >> 10} KiB`,
    );
  }
  await machine.works();
}, 3_600_000);

test(`a guest whose source or target is killed while it moves works to its end where it is left, ${MOVES} times`, async () => {
  console.log(`TSVISOR_MOVES_SEED=${SEED}`);
  let random = SEED;
  const below = (most: number): number => {
    random = (random * 1103515245 + 12345) % 2 ** 31;
    return (random / 2 ** 31) * most;
  };
  for (let kills = 0; kills < MOVES; kills++) {
    const machine = new MovingMachine();
    const victim = below(2) < 1 ? 'source' : 'target';
    const afterMs = below(KILLED_MS);
    const left = await machine.killed(victim, afterMs);
    console.log(`${victim} killed after ${Math.round(afterMs)} ms: a guest is left ${left}`);
    if (left !== 'nowhere') await machine.works();
    await killAll(running);
  }
}, 3_600_000);
