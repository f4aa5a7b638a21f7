/** A guest whose packets vhost-net moves goes on exchanging datagrams while its machine moves, from one TAP of a bridge to another. */
import { execFileSync } from 'node:child_process';
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startTalking } from '../testing/talking-machine.js';
import { VirtualMachine, type VmObserver } from '../virtual-machine.js';
import type { MoveOptions, MoveProgress, MoveResult } from './source.js';

const WINDOW = 4;
const MOVES = 2;
/** What the guest is to have exchanged after each move. */
const EXCHANGED = 300;
/** Waits of the guest for a reply, before it gives up. */
const STALLS = 3;
const PHASE_TRAFFIC = 0x50;
const TAPS = ['moved0', 'moved1'] as const;
const GATEWAY = '10.0.2.2';
const MAC = '52:54:00:12:34:57';

const ip = (...words: string[]) => execFileSync('ip', words, { stdio: 'pipe' });

let folder: string;
let echo: Socket;
/** Datagrams that the host has sent back. */
let echoed = 0;
let isEchoing = true;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'moved-'));
  execFileSync('modprobe', ['-a', 'tun', 'bridge', 'vhost_net']);
  ip('link', 'add', 'movedbr', 'type', 'bridge', 'forward_delay', '0');
  ip('address', 'add', `${GATEWAY}/24`, 'dev', 'movedbr');
  for (const tap of TAPS) {
    ip('tuntap', 'add', tap, 'mode', 'tap');
    ip('link', 'set', tap, 'master', 'movedbr', 'up');
  }
  ip('link', 'set', 'movedbr', 'up');
  echo = createSocket('udp4', (data, { port, address }) => {
    if (!isEchoing) return;
    echoed++;
    echo.send(data, port, address);
  });
  echo.bind(7);
  await once(echo, 'listening');
});
afterAll(async () => {
  const closed = once(echo, 'close');
  echo.close();
  await closed;
  for (const link of [...TAPS, 'movedbr']) ip('link', 'delete', link);
  rmSync(folder, { recursive: true, force: true });
});

/** Until the guest has exchanged so many more. */
async function exchanged(vm: VirtualMachine, count: number): Promise<void> {
  for (const end = echoed + count; echoed < end; await sleep(20))
    if (vm.state === 'ended') throw new Error(`the guest has ended after ${echoed} datagrams`);
}

const finished = async (vm: VirtualMachine) => (await vm.finished).outcome;

test(`a guest's datagrams go on while its machine moves ${MOVES} times, in rounds, and none is corrupt`, async () => {
  let startsTraffic: () => void = () => {};
  const traffic = new Promise<void>((resolve) => {
    startsTraffic = resolve;
  });
  const first = startTalking(
    {
      memory: '16M',
      devices: [{ address: 'virtio-net', options: { net: `vhost:${TAPS[0]}`, mac: MAC } }],
      cmdline: `nodhcp pings=2 udp=0x7fffffff,64,${WINDOW}`,
    },
    { phase: ({ code }) => code === PHASE_TRAFFIC && startsTraffic() },
  );
  let { vm } = first;
  let serial = '';
  const steps: string[] = [];
  const observer: VmObserver = {
    serial: (bytes) => {
      serial += Buffer.from(bytes).toString('latin1');
    },
    step: (text) => steps.push(text),
  };
  /** Moves it to the other TAP. */
  async function move(number: number, options: MoveOptions): Promise<MoveResult> {
    const address = `unix:${join(folder, `${number}`)}`;
    const changes = { deviceOptions: { 3: { net: `vhost:${TAPS[number % 2]}` } } };
    let listens: () => void = () => {};
    const listening = new Promise<void>((resolve) => {
      listens = resolve;
    });
    const received = VirtualMachine.receive(address, changes, observer, {
      listening: listens,
      timeoutMs: 60_000,
    });
    received.catch(() => {});
    await listening;
    const [sent, there] = await Promise.allSettled([
      vm.migrateTo(address, { timeoutMs: 60_000, ...options }),
      received,
    ]);
    if (sent.status === 'rejected') throw sent.reason;
    if (there.status === 'rejected') throw there.reason;
    expect(await finished(vm)).toEqual({ kind: 'moved', to: address });
    await vm[Symbol.asyncDispose]();
    vm = there.value;
    return sent.value;
  }
  try {
    await traffic;
    await exchanged(vm, EXCHANGED);
    // For a device without a log, a move that allows no downtime ends after the first round.
    const controller = new AbortController();
    const progress = ({ round }: MoveProgress) => round >= 3 && controller.abort(new Error('enough rounds'));
    const hasty = move(1, { downtimeMs: 1e-6, progress, signal: controller.signal });
    await expect(hasty).rejects.toThrow('enough rounds');
    for (let number = 1; number <= MOVES; number++) {
      const { rounds, sentBytes, downtimeMs, ms } = await move(number, { downtimeMs: 60_000 });
      const times = `${Math.round(downtimeMs)} ms down of ${Math.round(ms)}`;
      console.log(`move ${number}: ${rounds} rounds, ${sentBytes >> 10} KiB, ${times}`);
      await exchanged(vm, EXCHANGED);
    }
    isEchoing = false;
    const outcome = await finished(vm);
    console.log(`${echoed} datagrams echoed\n${serial.trim()}`);
    const [, returned] = /udp: (\d+) of \d+ datagrams/.exec(serial) ?? [];
    const [, lost, ...wrong] = /udp: (\d+) lost, (\d+) corrupt, (\d+) unexpected/.exec(serial) ?? [];
    // From a buffer or a used ring as it was before, the guest would take a reply that it has had.
    expect(wrong, serial).toEqual(['0', '0']);
    // What was under way to the TAP that it left is lost, as on any wire; and what nobody answered at the end.
    expect(Number(lost), serial).toBeLessThanOrEqual((MOVES + STALLS) * WINDOW);
    expect(Number(returned), serial).toBeGreaterThanOrEqual(echoed - Number(lost));
    expect(outcome.kind).toBe('verdict');
    expect(steps.join('\n')).not.toMatch(/in place of vhost-net/);
  } finally {
    await vm[Symbol.asyncDispose]();
  }
}, 240_000);
