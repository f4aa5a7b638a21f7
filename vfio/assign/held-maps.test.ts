import { expect, test } from 'vitest';
import { gpa, hva, type Iova, iova } from '../../sys/address.js';
import { errno } from '../../sys/errno.js';
import { SysError } from '../../sys/error.js';
import type { EventTask } from '../../sys/event-task.js';
import { InlineEventThread } from '../../sys/inline-event-thread.js';
import { IOCTL_TASK } from '../../sys/ioctl-calls.js';
import { createIoctlTask } from '../../sys/ioctl-task.js';
import { trace, type VfioEvent } from '../../sys/trace.js';
import { DmaMaps } from './dma-maps.js';
import type { MemoryRegion } from './guest-memory.js';

const MIB = 1n << 20n;
const region = (kind: MemoryRegion['kind'], name: string, at: bigint, bytes = MIB): MemoryRegion => ({
  ...{ kind, name, gpa: gpa(at), hva: hva(0x7000_0000n + at), bytes },
});
const LOW = region('ram', 'low', 0n);
const HIGH = region('ram', 'high', 16n * MIB);
const BAR = region('device', 'BAR2', 8n * MIB);
const FD = 17;

/** A container whose maps another thread can make, and what was asked of it: `*` by that thread. */
class Bench implements Disposable {
  readonly log: string[] = [];
  readonly threads: string[] = [];
  /** IOVAs that are refused: always, or to the other thread alone. */
  readonly refused = new Map<Iova, 'always' | 'there'>();
  readonly thread: InlineEventThread;
  readonly maps: DmaMaps;

  constructor() {
    const task = createIoctlTask((fd, request, argument) => {
      const at = iova(new DataView(argument.buffer, argument.byteOffset).getBigUint64(0, true));
      this.log.push(`*map ${at / MIB}`);
      return fd !== FD || request !== 1 || this.refused.has(at) ? -errno.ENOMEM : 0;
    });
    const inline = new InlineEventThread(new Map([[IOCTL_TASK.href, task]]));
    this.thread = inline;
    this.maps = new DmaMaps(
      {
        map: ({ iova: at }) => {
          this.log.push(`map ${at / MIB}`);
          if (this.refused.get(at) === 'always')
            throw new SysError({ call: 'map', target: 'container', errno: errno.ENOMEM, hint: 'buy some' });
        },
        mapCall: ({ iova: at }) => ({
          fd: FD,
          request: 1,
          argument: new Uint8Array(new BigUint64Array([at]).buffer),
        }),
        unmap: (at) => void this.log.push(`unmap ${at / MIB}`),
      },
      'a container',
      true,
    );
  }

  begin(): void {
    this.maps.begin({
      run: (module, data, where = 'shared'): EventTask => {
        this.threads.push(where);
        return this.thread.run(module, data);
      },
    });
  }

  add(...regions: readonly MemoryRegion[]): void {
    for (const each of regions) this.maps.added(each);
  }

  [Symbol.dispose](): void {
    this.thread[Symbol.dispose]();
  }
}

test('RAM is mapped by another thread, and a BAR after it, without a wait', () => {
  using bench = new Bench();
  const { maps, log, thread } = bench;
  bench.add(LOW, BAR, HIGH);
  expect([log, maps.iovaOf(LOW)]).toEqual([[], undefined]);
  bench.begin();
  bench.begin();
  expect([log, bench.threads]).toEqual([[], ['shared']]);
  const steps: (string | undefined)[] = [];
  const listen = ({ text }: VfioEvent) => steps.push(text);
  trace.vfio.subscribe(listen);
  thread.pump();
  trace.vfio.unsubscribe(listen);
  expect(log).toEqual(['*map 0', '*map 16', 'map 8']);
  expect(steps).toEqual([
    'DMA map 0x0-0xfffff (low)',
    'DMA map 0x1000000-0x10fffff (high)',
    'DMA map 0x800000-0x8fffff (BAR2)',
  ]);
  expect([LOW, BAR, HIGH].map((each) => maps.iovaOf(each))).toEqual([0n, 8n * MIB, 16n * MIB]);
  expect([maps.mapMs(LOW), maps.mapMs(BAR)]).toEqual([expect.any(Number), expect.any(Number)]);
  maps.settle();
  const late = region('device', 'BAR4', 32n * MIB);
  maps.added(late);
  expect(maps.mapMs(late)).toBeUndefined(); // as long as that call
  maps.removed(late);
  expect(log.slice(3)).toEqual(['map 32', 'unmap 32']);
});

test('whoever needs the maps waits for them, however far the thread is, and nothing is mapped twice', () => {
  for (const isBegun of [true, false]) {
    using bench = new Bench();
    bench.add(BAR, LOW, HIGH);
    if (isBegun) bench.begin();
    bench.maps.settle();
    expect(bench.log).toEqual(isBegun ? ['*map 0', '*map 16', 'map 8'] : ['map 8', 'map 0', 'map 16']);
    bench.thread.pump();
    bench.maps.settle();
    expect(bench.log).toHaveLength(3);
    expect([BAR, LOW, HIGH].map((each) => bench.maps.mapMs(each))).toEqual(Array(3).fill(expect.any(Number)));
  }
});

test('what the thread could not map is mapped by its owner', () => {
  using bench = new Bench();
  bench.refused.set(iova(0n), 'there');
  bench.add(LOW, HIGH);
  bench.begin();
  bench.thread.pump();
  expect(bench.log).toEqual(['*map 0', '*map 16', 'map 0']);
  expect(bench.maps.iovaOf(LOW)).toBe(0n);
});

test('RAM that cannot be mapped is the error of each that needs it, and of the owner of the thread', () => {
  using bench = new Bench();
  bench.refused.set(iova(16n * MIB), 'always');
  bench.add(LOW, HIGH, BAR);
  bench.begin();
  for (let i = 0; i < 2; i++)
    expect(() => bench.maps.settle()).toThrowError(/container: ENOMEM.*\n.*buy some/);
  expect(() => bench.thread.pump()).toThrowError(/container: ENOMEM/);
  expect(bench.log).toEqual(['*map 0', '*map 16', 'map 16']);
  for (const each of [LOW, HIGH, BAR]) bench.maps.removed(each);
  expect(bench.log.slice(3)).toEqual(['unmap 0']);
});

test('a BAR that cannot be mapped is no error: it lacks peer-to-peer DMA', () => {
  using bench = new Bench();
  bench.refused.set(iova(8n * MIB), 'always');
  bench.add(LOW, BAR);
  bench.begin();
  bench.thread.pump();
  expect([LOW, BAR].map((each) => bench.maps.iovaOf(each))).toEqual([0n, undefined]);
});

test('what is removed meanwhile is unmapped if it was mapped, and else not mapped at all', () => {
  using bench = new Bench();
  bench.add(LOW, BAR, HIGH);
  bench.maps.removed(BAR);
  bench.begin();
  bench.maps.removed(HIGH);
  bench.thread.pump();
  expect(bench.log).toEqual([]);
  bench.maps.settle();
  bench.maps.removed(LOW);
  expect(bench.log).toEqual(['map 0', 'unmap 0']);
});

test('what is removed once the thread has ended is not mapped any more, as nobody knows what was', () => {
  using bench = new Bench();
  bench.add(LOW, HIGH, BAR);
  bench.maps.begin({
    run: () => ({
      receive: undefined,
      post: () => {},
      call: () => {
        throw new Error('event thread: it has ended');
      },
      [Symbol.dispose]: () => {},
    }),
  });
  expect(() => bench.maps.removed(LOW)).toThrowError('it has ended');
  for (let i = 0; i < 2; i++) expect(() => bench.maps.settle()).toThrowError('it has ended');
  for (const each of [HIGH, BAR]) bench.maps.removed(each);
  expect(bench.log).toEqual([]);
});

test('after the end no message of the thread is heard', () => {
  using bench = new Bench();
  bench.add(LOW, HIGH);
  bench.begin();
  bench.maps.settle();
  for (const each of [HIGH, LOW]) bench.maps.removed(each);
  bench.thread.pump();
  expect(bench.log).toEqual(['*map 0', '*map 16', 'unmap 16', 'unmap 0']);
});

test('more than a gibibyte is mapped in a thread of its own', () => {
  using bench = new Bench();
  bench.add(region('ram', 'low', 0n, 512n * MIB), region('ram', 'high', 512n * MIB, 513n * MIB));
  bench.begin();
  bench.maps.settle();
  expect(bench.threads).toEqual(['own']);
});

test('a target whose maps no other thread can make is not held', () => {
  const log: string[] = [];
  const maps = new DmaMaps({ map: () => log.push('map'), unmap: () => {} }, 'a container', true);
  maps.added(LOW);
  expect(log).toEqual(['map']);
});

test('a target that could map all regions at once is held all the same', () => {
  const none = (): never => expect.unreachable();
  const maps = new DmaMaps({ map: none, mapEach: none, mapCall: none, unmap: none }, 'a container', true);
  expect(maps.addedAll).toBeUndefined();
});
