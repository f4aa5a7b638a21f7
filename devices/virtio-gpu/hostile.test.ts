/** A guest whose commands are anything: each gets a response or none, and nothing takes memory beyond the limits. */
import { createHash } from 'node:crypto';
import { expect, test } from 'vitest';
import { diceOf } from '../../sys/testing/random.js';
import { maps } from '../virtio-net/testing/guest.js';
import { allRemote } from '../virtio-net/testing/remote-maps.js';
import { CONTROLQ, CURSORQ, GpuBench, PICTURES } from './testing/workbench.js';

const CHAINS = 10_000;
const SEED = 0x5eed_0016;
const EDGES = [0, 1, 2, 15, 16, 17, 63, 64, 65, 1024, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];
const TYPES = [...Array.from({ length: 14 }, (_, i) => 0x100 + i), 0x300, 0x301, 0, 0xffff_ffff];
/** Create, attach, transfer and show: what comes far only if the others do. */
const USUAL = [0x101, 0x106, 0x105, 0x103];
const FORMATS = [1, 2, 3, 4, 67, 68, 121, 134, 5, 0];
const MEMORY = 4 << 20;

/** A checksum of all that is visible: planes, cursors and their pixels. */
function visibleOn(bench: GpuBench, heads: number): string {
  const sum = createHash('md5');
  for (let head = 0; head < heads; head++)
    for (const drmPlaneType of [1, 2]) {
      const {
        drawn: _,
        drmFormatMod: __,
        ...plane
      } = bench.ops.queryGfxPlane({ flags: 4, drmPlaneType, head });
      sum.update(JSON.stringify(plane)).update(bench.shown(head, drmPlaneType) ?? '');
    }
  return sum.digest('hex');
}

test.each([
  ['of this process', undefined],
  ['accessed by message', allRemote],
] as const)(
  `${CHAINS} random chains in memory ${'%s'} (seed ${SEED}): no exception, and the card works afterwards`,
  (_, list) => {
    const dice = diceOf(SEED);
    using bench = new GpuBench({ heads: '3', memory: '4' });
    if (list !== undefined) bench.memory.map(list);
    bench.start();
    const pick = <T>(of: readonly T[]): T => of[dice(of.length)] as T;
    const word = (): number => (dice(3) === 0 ? pick(EDGES) : dice(40));
    const place = (): number =>
      pick([
        PICTURES,
        PICTURES + dice(100_000),
        maps.next.iova - dice(5000),
        0x9000_0000,
        maps.readOnly.iova,
        0,
      ]);
    let resets = 0;
    /** What was visible with each number of drawing. */
    const drawn = new Map<number | undefined, string>();
    const responses = new Set<number>();

    function body(type: number): number[] {
      const out = Array.from({ length: dice(14) }, word);
      // Half of what attaches and creates has a chance to be right.
      if (dice(2) === 0) return out;
      if (type === 0x101) return [dice(6), pick(FORMATS), 1 + dice(300), 1 + dice(300)];
      if (type === 0x105) return [dice(3), dice(3), 1 + dice(9), 1 + dice(9), 4 * dice(9), 0, dice(6), 0];
      if (type !== 0x106)
        return out
          .slice(0, dice(8))
          .map(() => dice(16))
          .concat(out);
      const count = 1 + dice(4);
      return [
        dice(6),
        count,
        ...Array.from({ length: count }, () => [
          place(),
          pick([0, 0, dice(2)]),
          pick([4096, 70_000, 4096, word()]),
          0,
        ]).flat(),
      ];
    }

    for (let i = 0; i < CHAINS; i++) {
      const queue = dice(4) === 0 ? CURSORQ : CONTROLQ;
      const type = dice(2) === 0 ? pick(USUAL) : pick(TYPES);
      const bytes = new Uint8Array(
        Uint32Array.from([type, dice(2), word(), word(), word(), 0, ...body(type)]).buffer,
      );
      const { command, response } = bench.place(
        bytes.subarray(0, bytes.length - dice(2) * dice(bytes.length)),
        2048,
      );
      const lies = dice(200);
      const chain = [command, { ...response, length: pick([2048, 2048, 24, dice(2048)]) }];
      if (lies === 0) chain.reverse();
      if (lies === 1) chain[0] = { address: place(), length: dice(2 ** 20) };
      if (lies === 2) chain.pop();
      if (lies === 3) chain.shift();
      bench.queues[queue]!.add(chain);
      if (dice(3) === 0) bench.ops.queryGfxPlane({ flags: 4, drmPlaneType: 1 + dice(2), head: dice(3) });
      if (dice(3) !== 0 && i % 30 !== 29) continue;
      bench.ring(CONTROLQ);
      bench.ring(CURSORQ);
      const at = bench.memory.at(response.address);
      responses.add(bench.memory.words.getUint32(at, true));
      for (let head = 0; head < 3; head++) {
        const plane = bench.ops.queryGfxPlane({ flags: 4, drmPlaneType: 1, head });
        const region = bench.ops.getRegionInfo(plane.regionIndex);
        const end = plane.offset + Math.max(0, plane.height - 1) * plane.stride + 4 * plane.width;
        expect(end).toBeLessThanOrEqual(region.size);
        expect(region.size).toBe(MEMORY + 3 * 16_384);
      }
      const number = bench.ops.queryGfxPlane({ flags: 4, drmPlaneType: 1 }).drawn;
      const visible = visibleOn(bench, 3);
      expect(drawn.get(number) ?? visible, 'what is visible with the same number').toBe(visible);
      drawn.set(number, visible);
      if (!bench.needsReset) continue;
      resets++;
      bench.start();
    }
    // The chains were no noise: they have met successes and each kind of error.
    for (const type of [0x1100, 0x1101, 0x1104, 0x1200, 0x1202, 0x1203, 0x1205])
      expect(responses).toContain(type);
    expect(resets).toBeGreaterThan(10);
    const { commands, errors, transfers } = bench.instance.counters();
    expect(commands).toBeGreaterThan(CHAINS / 4);
    expect(errors).toBeLessThan(commands);
    expect(transfers).toBeGreaterThan(0);
    bench.memory.mapAll();
    bench.start();
    bench.picture(1, 64, 64, 7);
    bench.transfer(1, 0, 0, 64, 64, 0);
    bench.setScanout(2, 1, 0, 0, 64, 64);
    expect(bench.shown(2)?.length).toBe(64 * 64);
  },
);
