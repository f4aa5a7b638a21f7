/** Guests with hostile devices: a bug is found from a seed and found again, and the machine ends in order whatever happens. */
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { tsvisor } from './testing/machines.js';

const HOSTILE_GUEST = fileURLToPath(new URL('guest/hostile/hostile.elf', import.meta.url));
const [FIRST_SEED, MOST_SEEDS] = [9, 10];
const EXCEPTION = 5;

/** The driver's words for a guest with a planted bug: it trusts the buffer ids that the device writes to its receive ring. */
const WORDS = 'nodhcp pings=60';
const BUGGY = `${WORDS} bug=rx-id`;

function run(words: string, hostile: string) {
  const args = ['run', '--device', `virtio-net,hostile=${hostile}`, '--append', words, '--trace', 'mutation'];
  const { status, stdout, stderr } = tsvisor(args);
  const mutations = [...stdout.matchAll(/^ *trace mutation (\{.*\})$/gm)].map(([, json]) =>
    JSON.parse(json as string),
  );
  return { status, stdout, stderr, mutations: mutations as { label: string; action: string }[] };
}

test('a planted bug of the guest’s driver is found from a seed, found again from it, and needs one mutation', {
  timeout: 180_000,
}, () => {
  const hunt = Array.from({ length: MOST_SEEDS }, (_, i) => FIRST_SEED + i);
  const how = (seed: number) => `${seed}:rate=0.05:kinds=dma`;
  const seed = hunt.find((each) => run(BUGGY, how(each)).status === EXCEPTION);
  expect(seed, 'no seed finds the bug').toBeDefined();
  const found = run(BUGGY, how(seed as number));
  expect(found.status).toBe(EXCEPTION);
  expect(found.stdout).toMatch(new RegExp(`virtio-net is hostile: seed ${seed}, rate 0.05, dma`));
  const fault = /exception 14 at rip 0x[\da-f]+, error code 0x0, cr2 0x[\da-f]+/.exec(found.stdout)?.[0];
  expect(fault).toBeDefined();
  console.log(`found by hostile=${how(seed as number)}: ${fault}`);

  const again = run(BUGGY, how(seed as number));
  expect(again.mutations).toEqual(found.mutations);
  expect(again.stdout).toContain(fault);

  const alone = (words: string, label: string) => run(words, `${how(seed as number)}:only=${label}`);
  const labels = found.mutations.map(({ label }) => label);
  const culprit = labels.findLast((label) => alone(BUGGY, label).status === EXCEPTION) as string;
  expect(culprit, `none of ${labels.join(', ')} finds it alone`).toBeDefined();
  console.log(`and by ${culprit} alone`);
  expect(alone(BUGGY, culprit).mutations.map(({ label }) => label)).toEqual([culprit]);

  // The driver without the bug survives it.
  expect(alone(WORDS, culprit).status).not.toBe(EXCEPTION);
});

test.each([1, 2])(
  'seed %i: a hostile guest with hostile devices ends with its own verdict',
  { timeout: 120_000 },
  (seed) => {
    const devices = ['virtio-net', 'mtty-2', 'vgpu-small', 'testcard', 'virtio-net'].flatMap((name, i) => [
      '--device',
      `${name},hostile=${seed + i}:rate=0.2:kinds=value+write+interrupt+dma+error`,
    ]);
    const args = [
      'run',
      '--json',
      '--guest',
      HOSTILE_GUEST,
      '--append',
      `seed=${seed} ops=10000`,
      ...devices,
    ];
    const { status, stdout, stderr } = tsvisor(args);
    expect([status, stderr]).toEqual([0, '']);
    const report = JSON.parse(stdout);
    expect(report.outcome).toEqual({ kind: 'verdict', status: 0 });
    const mutations = report.devices.map(
      ({ counters }: { counters: { mutations: number } }) => counters.mutations,
    );
    expect(mutations.reduce((sum: number, each: number) => sum + each, 0)).toBeGreaterThan(500);
  },
);

test('a seed that is none is refused before the machine starts, and so is hostility of the host’s devices', () => {
  const wrong = tsvisor(['run', '--device', 'virtio-net,hostile=seven']);
  expect([wrong.status, wrong.stderr]).toEqual([64, expect.stringMatching(/hostile: "seven" is no seed/)]);
  const unknown = tsvisor(['run', '--device', 'vfio-user:/nowhere,hostile=7']);
  expect([unknown.status, unknown.stderr]).toEqual([64, expect.stringMatching(/hostile/)]);
});
