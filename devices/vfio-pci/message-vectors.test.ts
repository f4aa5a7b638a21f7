import { expect, test } from 'vitest';
import { trace } from '../../sys/trace.js';
import { VectorLimit } from '../../vfio/vector-limit.js';
import { recordTrace } from '../testing/fake-ports.js';
import type { IrqPort } from './irq-port.js';
import { MessageVectors } from './message-vectors.js';

/** Vectors over a host that takes `room` of them, and has no line for those `without`. */
function bench(what: 'msi' | 'msix', { count = 4, room = 4, without = [] as number[], flags = 0 } = {}) {
  const requests: string[] = [];
  const lines: string[] = [];
  const irq = {
    info: { index: 0, flags, count },
    trigger(start: number, fds: readonly number[]) {
      requests.push(`${start}: ${fds.join(' ')}`);
      if (start + fds.length > room) throw new VectorLimit('nic', fds.length, room);
    },
    disable: () => requests.push('off'),
  };
  const interrupts = {
    level: () => {
      throw new Error('not used here');
    },
    msi(name: string) {
      const vector = Number(name.split(' ').at(-1));
      if (without.includes(vector)) throw new RangeError(`no line ${vector}`);
      const line = {
        eventfd: 100 + vector,
        isOpen: false,
        open(address: bigint, data: number) {
          line.isOpen = true;
          lines.push(`${name} opens ${address} ${data}`);
        },
        close() {
          line.isOpen = false;
          lines.push(`${name} closes`);
        },
        isPending: () => true,
        [Symbol.dispose]: () => lines.push(`${name} ends`),
      };
      return line;
    },
  };
  return { requests, lines, vectors: new MessageVectors('nic', what, irq as unknown as IrqPort, interrupts) };
}

const all = (): boolean => true;

test.each([
  { what: 'msix', label: 'MSI-X' },
  { what: 'msi', label: 'MSI' },
] as const)('each step of $label is noted under its name', ({ what, label }) => {
  using recorded = recordTrace(trace.vfio);
  const { vectors } = bench(what);
  vectors.start(2, (vector) => vector === 0);
  vectors.add(1);
  vectors.stop();
  vectors.stop();
  expect(recorded.events.map(({ what: subject, device, text }) => [subject, device, text])).toEqual([
    [what, 'nic', `${label} on: 2 of 2 vectors wired, 1 irqfd`],
    [what, 'nic', `${label} vector 1: irqfd added`],
    [what, 'nic', `${label} off`],
  ]);
});

test.each([
  { what: 'all', wanted: all, options: {}, is: '4 of 4 vectors wired, 4 irqfds', asked: ['100 101 102 103'] },
  {
    what: 'one that is not wanted',
    wanted: (vector: number) => vector !== 1,
    options: {},
    is: '4 of 4 vectors wired, 3 irqfds',
    asked: ['100 -1 102 103'],
  },
  {
    what: 'one without a line',
    wanted: all,
    options: { without: [1] },
    is: '3 of 4 vectors wired, 3 irqfds',
    asked: ['100 -1 102 103'],
  },
  {
    what: 'fewer in the host',
    wanted: all,
    options: { room: 3 },
    is: '3 of 4 vectors wired, 3 irqfds',
    asked: ['100 101 102 103', '100 101 102'],
  },
  {
    what: 'fewer in the device',
    wanted: all,
    options: { count: 2 },
    is: '2 of 4 vectors wired, 2 irqfds',
    asked: ['100 101'],
  },
  {
    what: 'none in the host',
    wanted: all,
    options: { room: 0 },
    is: '0 of 4 vectors wired, 0 irqfds',
    asked: ['100 101 102 103'],
  },
])('of four vectors with $what, the note and the requests say how many', ({ wanted, options, is, asked }) => {
  using recorded = recordTrace(trace.vfio);
  const { vectors, requests } = bench('msix', options);
  vectors.start(4, wanted);
  expect(recorded.events.at(-1)?.text).toBe(`MSI-X on: ${is}`);
  expect(requests).toEqual(asked.map((fds) => `0: ${fds}`));
  expect(vectors.isStarted).toBe(true);
});

test('vectors that the host does not have lose their lines, and are not tried again before the next start', () => {
  const { vectors, requests, lines } = bench('msix', { room: 2 });
  vectors.start(4, all);
  expect(lines).toEqual(['nic msix 2 ends', 'nic msix 3 ends']);
  requests.length = 0;
  for (const vector of [0, 1, 2, 3, 4]) vectors.add(vector);
  expect(requests).toEqual([]);
  expect([0, 1, 2, 3].map((vector) => vectors.isPending(vector))).toEqual([true, true, false, false]);
  vectors.stop();
  expect(lines.slice(2)).toEqual(['nic msix 0 ends', 'nic msix 1 ends']);
  vectors.start(1, () => false);
  vectors.add(2);
  expect(requests.slice(-1)).toEqual(['2: 102']);
  expect(lines.at(-1)).toBe('nic msix 2 ends'); // refused again
});

test('a line is opened when its message changes or it was closed, closed once, and not pending while open', () => {
  const { vectors, lines } = bench('msi');
  vectors.start(1, all);
  vectors.hold(0);
  vectors.deliver(0, 16n, 5);
  vectors.deliver(0, 16n, 5);
  expect(vectors.isPending(0)).toBe(false);
  vectors.deliver(0, 16n, 6);
  vectors.deliver(0, 32n, 6);
  vectors.hold(0);
  vectors.hold(0);
  expect(vectors.isPending(0)).toBe(true);
  vectors.deliver(0, 32n, 6);
  vectors.deliver(3, 1n, 1);
  vectors.hold(3);
  expect(lines.map((line) => line.replace('nic msi 0 ', ''))).toEqual([
    'opens 16 5',
    'opens 16 6',
    'opens 32 6',
    'closes',
    'opens 32 6',
  ]);
});

test('a set is fixed if the host says that it is', () => {
  expect([0, 8, 9, 7].map((flags) => bench('msi', { flags }).vectors.isFixed)).toEqual([
    false,
    true,
    true,
    false,
  ]);
});
