import fc from 'fast-check';
import { describe, expect, test, vi } from 'vitest';
import { signalEventfd } from '../../sys/eventfd.js';
import { Scope } from '../../sys/scope.js';
import { trace } from '../../sys/trace.js';
import { VFIO_PCI_INTX_IRQ_INDEX, VFIO_PCI_MSI_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX } from '../../vfio/uapi.js';
import { VectorLimit } from '../../vfio/vector-limit.js';
import {
  type FakeEnvironment,
  type FakeLevelLine,
  fakeEnvironment,
  recordTrace,
} from '../testing/fake-ports.js';
import type { ScriptedDevice } from '../testing/scripted-device.js';
import { VfioPciDevice } from './device.js';
import { createScriptedNic, nicMsix, nicOffsets, type ScriptedNicOptions } from './scripted-nic.js';

const INTX = VFIO_PCI_INTX_IRQ_INDEX;
const MSI = VFIO_PCI_MSI_IRQ_INDEX;
const MSIX = VFIO_PCI_MSIX_IRQ_INDEX;
const TABLE = 0xe0100000n + BigInt(nicMsix.table);
const PBA = 0xe0100000n + BigInt(nicMsix.pba);
const MSIX_CONTROL = nicOffsets.msix + 2;
const MSI_CONTROL = nicOffsets.msi + 2;

interface Bench {
  readonly nic: ScriptedDevice;
  readonly device: VfioPciDevice;
  readonly environment: FakeEnvironment;
}

function openNic(scope: Scope, options: ScriptedNicOptions = {}): Bench {
  const nic = scope.own(createScriptedNic(options));
  const environment = fakeEnvironment();
  const device = scope.own(VfioPciDevice.open('nic', nic, environment, { routeIntx: (pin) => 15 + pin }));
  device.configWrite(0x10, 4, 0xe0000000);
  device.configWrite(0x20, 4, 0xe0100000);
  device.configWrite(0x04, 2, 0x0006);
  return { nic, device, environment };
}

/** Writes a vector's message and mask. */
function setVector({ environment: { mmio } }: Bench, vector: number, data: number, isMasked = false): void {
  const at = TABLE + BigInt(vector * 16);
  mmio.write32(at, 0xfee00000);
  mmio.write32(at + 4n, 0);
  mmio.write32(at + 8n, data);
  mmio.write32(at + 12n, isMasked ? 1 : 0);
}

const mask = ({ environment: { mmio } }: Bench, vector: number, isMasked: boolean): void =>
  mmio.write32(TABLE + BigInt(vector * 16 + 12), isMasked ? 1 : 0);

/** Messages delivered since the last call: data and count. */
const delivered = ({ environment: { interrupts } }: Bench): [number, number][] =>
  interrupts.take().map(({ data, count }) => [data, Number(count)]);

const irqCalls = ({ nic }: Bench): string[] =>
  nic.calls.flatMap((call) =>
    call.call === 'setIrqs'
      ? [
          `${call.set.index}: ${call.set.start}+${call.set.count} ${(call.set.data ?? []).map((fd) => (fd < 0 ? '-' : 'fd')).join(' ')}`.trim(),
        ]
      : [],
  );

describe('MSI-X', () => {
  test('a fixed set of vectors is wired in one call at enable', () => {
    using scope = new Scope();
    const bench = openNic(scope);
    bench.nic.calls.length = 0;
    setVector(bench, 1, 0x51);
    bench.device.configWrite(MSIX_CONTROL, 2, 0x8000);
    setVector(bench, 3, 0x53);
    expect(irqCalls(bench)).toEqual([`${INTX}: 0+0`, `${MSIX}: 0+5 fd fd fd fd fd`]);
    bench.nic.fire(MSIX, 1);
    bench.nic.fire(MSIX, 3);
    expect(delivered(bench)).toEqual([
      [0x51, 1],
      [0x53, 1],
    ]);
  });

  test('in a set that can grow, each vector is wired when the guest first uses it', () => {
    using scope = new Scope();
    const bench = openNic(scope, { isDynamic: true });
    setVector(bench, 1, 0x51);
    bench.nic.calls.length = 0;
    bench.device.configWrite(MSIX_CONTROL, 2, 0xc000);
    expect(irqCalls(bench)).toEqual([`${INTX}: 0+0`, `${MSIX}: 0+2 - fd`]);
    setVector(bench, 3, 0x53);
    setVector(bench, 0, 0x50);
    bench.device.configWrite(MSIX_CONTROL, 2, 0x8000);
    expect(irqCalls(bench).slice(2)).toEqual([`${MSIX}: 3+1 fd`, `${MSIX}: 0+1 fd`]);
    expect(bench.nic.wired()[MSIX]).toEqual([0, 1, 3]);
  });

  test('a device is enabled even with no vector in use', () => {
    using scope = new Scope();
    const bench = openNic(scope, { isDynamic: true });
    bench.nic.calls.length = 0;
    bench.device.configWrite(MSIX_CONTROL, 2, 0x8000);
    expect(irqCalls(bench)).toEqual([`${INTX}: 0+0`, `${MSIX}: 0+1 -`]);
    expect(bench.device.interruptMode).toBe('msix');
  });

  test('an interrupt while masked is pending, and delivered at unmask', () => {
    using scope = new Scope();
    const bench = openNic(scope);
    setVector(bench, 2, 0x52, true);
    bench.device.configWrite(MSIX_CONTROL, 2, 0x8000);
    bench.nic.fire(MSIX, 2);
    expect(delivered(bench)).toEqual([]);
    expect(bench.environment.mmio.read32(PBA)).toBe(0b100);
    mask(bench, 2, false);
    expect(delivered(bench)).toEqual([[0x52, 1]]);
    expect(bench.environment.mmio.read32(PBA)).toBe(0);
  });

  test('the function mask masks every vector', () => {
    using scope = new Scope();
    const bench = openNic(scope);
    setVector(bench, 0, 0x50);
    setVector(bench, 4, 0x54);
    bench.device.configWrite(MSIX_CONTROL, 2, 0xc000);
    bench.nic.fire(MSIX, 0);
    bench.nic.fire(MSIX, 4);
    expect(delivered(bench)).toEqual([]);
    expect(bench.environment.mmio.read(PBA, 1)).toEqual(new Uint8Array([0b10001]));
    bench.device.configWrite(MSIX_CONTROL, 2, 0x8000);
    expect(delivered(bench)).toEqual([
      [0x50, 1],
      [0x54, 1],
    ]);
  });

  test('a message may change while its vector is enabled', () => {
    using scope = new Scope();
    const bench = openNic(scope);
    setVector(bench, 0, 0x50);
    bench.device.configWrite(MSIX_CONTROL, 2, 0x8000);
    bench.nic.fire(MSIX, 0);
    bench.environment.mmio.write32(TABLE + 8n, 0x60);
    bench.nic.fire(MSIX, 0);
    expect(delivered(bench)).toEqual([
      [0x50, 1],
      [0x60, 1],
    ]);
  });

  test('no history of masking, moving and function masking loses an interrupt', () => {
    const vector = fc.integer({ min: 0, max: nicMsix.vectors - 1 });
    const step = fc.oneof(
      { weight: 4, arbitrary: fc.record({ kind: fc.constant('fire' as const), vector }) },
      { weight: 2, arbitrary: fc.record({ kind: fc.constant('mask' as const), vector }) },
      { weight: 2, arbitrary: fc.record({ kind: fc.constant('unmask' as const), vector }) },
      { weight: 1, arbitrary: fc.record({ kind: fc.constant('message' as const), vector }) },
      { weight: 1, arbitrary: fc.record({ kind: fc.constant('function' as const), vector }) },
      { weight: 1, arbitrary: fc.record({ kind: fc.constant('hide' as const), vector }) },
    );
    fc.assert(
      fc.property(fc.boolean(), fc.array(step, { maxLength: 40 }), (isDynamic, steps) => {
        using scope = new Scope();
        const bench = openNic(scope, { isDynamic });
        for (let v = 0; v < nicMsix.vectors; v++) setVector(bench, v, 0x50 + v);
        bench.device.configWrite(MSIX_CONTROL, 2, 0x8000);
        const fired = new Array<number>(nicMsix.vectors).fill(0);
        const masked = new Set<number>();
        let isFunctionMasked = false;
        const got = new Array<number>(nicMsix.vectors).fill(0);
        const look = (): void => {
          for (const { name, count } of bench.environment.interrupts.take()) {
            const at = Number(name.at(-1));
            got[at] = (got[at] as number) + Number(count);
          }
        };
        for (const { kind, vector: v } of steps) {
          if (kind === 'fire') {
            expect(bench.nic.fire(MSIX, v)).toBe(true);
            fired[v] = (fired[v] as number) + 1;
          } else if (kind === 'mask') {
            mask(bench, v, true);
            masked.add(v);
          } else if (kind === 'unmask') {
            mask(bench, v, false);
            masked.delete(v);
          } else if (kind === 'message') {
            bench.environment.mmio.write32(TABLE + BigInt(v * 16 + 8), 0x80 + v);
          } else if (kind === 'function') {
            isFunctionMasked = !isFunctionMasked;
            bench.device.configWrite(MSIX_CONTROL, 2, isFunctionMasked ? 0xc000 : 0x8000);
          } else {
            // Interrupts do not depend on whether the table is accessible.
            bench.device.configWrite(0x04, 2, 0x0004);
            bench.device.configWrite(0x04, 2, 0x0006);
          }
          const before = [...got];
          look();
          for (let i = 0; i < nicMsix.vectors; i++) {
            const isHeld = isFunctionMasked || masked.has(i);
            expect(got[i]).toBe(isHeld ? before[i] : fired[i]);
          }
          const pending = fired.reduce((bits, count, i) => bits | (count === got[i] ? 0 : 1 << i), 0);
          expect(bench.environment.mmio.read32(PBA)).toBe(pending);
        }
        bench.device.configWrite(MSIX_CONTROL, 2, 0x8000);
        for (const v of masked) mask(bench, v, false);
        look();
        expect(got).toEqual(fired);
      }),
      { numRuns: 40 },
    );
  });

  test('a write that is not aligned 4-byte words changes nothing', () => {
    using scope = new Scope();
    const bench = openNic(scope);
    using misuse = recordTrace(trace.guestMisuse);
    setVector(bench, 0, 0x50);
    const { mmio } = bench.environment;
    const before = mmio.read(TABLE, 16);
    mmio.write(TABLE, new Uint8Array([1]));
    mmio.write(TABLE + 2n, new Uint8Array(4));
    mmio.write(TABLE + 4n, new Uint8Array([1, 2]));
    mmio.write(PBA, new Uint8Array(8).fill(0xff));
    expect(mmio.read(TABLE, 16)).toEqual(before);
    expect(mmio.read(PBA, 8)).toEqual(new Uint8Array(8));
    expect(misuse.events).toHaveLength(3);
    expect(bench.nic.region(4).every((byte) => byte === 0)).toBe(true);
  });

  test('8-byte accesses work on the table', () => {
    using scope = new Scope();
    const bench = openNic(scope);
    const { mmio } = bench.environment;
    mmio.write(TABLE, new Uint8Array([0, 0, 0xe0, 0xfe, 0, 0, 0, 0]));
    mmio.write(TABLE + 8n, new Uint8Array([0x77, 0, 0, 0, 0, 0, 0, 0]));
    bench.device.configWrite(MSIX_CONTROL, 2, 0x8000);
    bench.nic.fire(MSIX, 0);
    expect(bench.environment.interrupts.take()).toMatchObject([{ address: 0xfee00000n, data: 0x77 }]);
  });

  test('when the host runs out of interrupts, the vectors wired so far work', () => {
    using scope = new Scope();
    const bench = openNic(scope);
    bench.environment.interrupts.limit = 2;
    using notes = recordTrace(trace.vfio);
    for (let v = 0; v < nicMsix.vectors; v++) setVector(bench, v, 0x50 + v);
    bench.device.configWrite(MSIX_CONTROL, 2, 0x8000);
    expect(bench.nic.wired()[MSIX]).toEqual([0, 1]);
    expect(notes.events.filter(({ text }) => text?.includes('ENOSPC'))).not.toEqual([]);
    expect(notes.events.at(-1)?.text).toBe('MSI-X on: 2 of 5 vectors wired, 2 irqfds');
    bench.nic.fire(MSIX, 1);
    expect(delivered(bench)).toEqual([[0x51, 1]]);
  });

  test.each([
    [false, 3],
    [true, 3],
    [false, 1],
  ])(
    'a host with fewer vectors gets a request for that many (dynamic %s, %i vectors)',
    (isDynamic, vectors) => {
      using scope = new Scope();
      const bench = openNic(scope, { isDynamic, init: { vectors } });
      using notes = recordTrace(trace.vfio);
      for (let v = 0; v < nicMsix.vectors; v++) setVector(bench, v, 0x50 + v);
      bench.nic.calls.length = 0;
      bench.device.configWrite(MSIX_CONTROL, 2, 0x8000);
      expect(bench.nic.calls.filter(({ call }) => call === 'setIrqs')).toMatchObject([
        { set: { index: INTX } },
        { set: { index: MSIX, start: 0, count: 5 } },
        { set: { index: MSIX, start: 0, count: vectors } },
      ]);
      expect(bench.nic.wired()[MSIX]).toEqual([0, 1, 2].slice(0, vectors));
      expect(bench.environment.interrupts.lines.size).toBe(vectors);
      const texts = notes.events.map(({ text }) => text);
      expect(texts.filter((text) => text?.includes('wired'))).toEqual([
        `MSI-X on: ${vectors} of 5 vectors wired, ${vectors} irqfd${vectors === 1 ? '' : 's'}`,
      ]);
      expect(
        texts.filter((text) => text?.includes(`the host has ${vectors} of these 5 vectors`)),
      ).toHaveLength(1);
      bench.nic.fire(MSIX, 0);
      expect(delivered(bench)).toEqual([[0x50, 1]]);
      // The guest's further writes do not ask the host again, and a new start does.
      const asked = irqCalls(bench).length;
      setVector(bench, 4, 0x77);
      expect(irqCalls(bench)).toHaveLength(asked);
      bench.device.configWrite(MSIX_CONTROL, 2, 0);
      bench.device.configWrite(MSIX_CONTROL, 2, 0x8000);
      expect(bench.nic.wired()[MSIX]).toEqual([0, 1, 2].slice(0, vectors));
    },
  );

  test('a host that names as many vectors as it was asked for is not asked for ever', () => {
    using scope = new Scope();
    const bench = openNic(scope);
    vi.spyOn(bench.nic, 'setIrqs').mockImplementation(({ count }) => {
      throw new VectorLimit('nic', count, count);
    });
    using notes = recordTrace(trace.vfio);
    bench.device.configWrite(MSIX_CONTROL, 2, 0x8000);
    expect(notes.events.at(-1)?.text).toBe('MSI-X on: 0 of 5 vectors wired, 0 irqfds');
  });

  test('disabling releases all lines', () => {
    using scope = new Scope();
    const bench = openNic(scope);
    bench.device.configWrite(MSIX_CONTROL, 2, 0x8000);
    expect(bench.environment.interrupts.lines.size).toBe(nicMsix.vectors);
    bench.device.configWrite(MSIX_CONTROL, 2, 0);
    expect(bench.environment.interrupts.lines.size).toBe(0);
    expect(bench.device.interruptMode).toBe('intx');
  });
});

describe('MSI', () => {
  const enable = (bench: Bench, log2: number): void => {
    bench.device.configWrite(nicOffsets.msi + 4, 4, 0xfee01000);
    bench.device.configWrite(nicOffsets.msi + 8, 4, 0);
    bench.device.configWrite(nicOffsets.msi + 12, 2, 0x41);
    bench.device.configWrite(MSI_CONTROL, 2, 0x0001 | (log2 << 4));
  };

  test('several messages differ in the low bits of their data', () => {
    using scope = new Scope();
    const bench = openNic(scope);
    enable(bench, 2);
    expect(bench.nic.wired()[MSI]).toEqual([0, 1, 2, 3]);
    for (const vector of [3, 0]) bench.nic.fire(MSI, vector);
    expect(delivered(bench)).toEqual([
      [0x40, 1],
      [0x43, 1],
    ]);
  });

  test('a guest that enables more vectors than the device has gets those that exist', () => {
    using scope = new Scope();
    const bench = openNic(scope);
    enable(bench, 5);
    expect(bench.nic.wired()[MSI]).toEqual([0, 1, 2, 3]);
    expect(bench.device.configRead(MSI_CONTROL, 2) & 0x0e).toBe(0x04);
  });

  test('a guest that enables more vectors than the capability has gets those, whatever the provider has', () => {
    using scope = new Scope();
    const bench = openNic(scope, { init: { irqs: { [MSI]: { count: 32 } } } });
    bench.device.configWrite(nicOffsets.msi + 4, 4, 0xfee01000);
    bench.device.configWrite(nicOffsets.msi + 12, 2, 0x5d);
    bench.device.configWrite(MSI_CONTROL, 2, 0x0051);
    expect(bench.nic.wired()[MSI]).toEqual([0, 1, 2, 3]);
    bench.nic.fire(MSI, 3);
    expect(delivered(bench)).toEqual([[0x5f, 1]]);
  });

  test('a host with fewer vectors gets a request for that many', () => {
    using scope = new Scope();
    const bench = openNic(scope, { init: { vectors: 3 } });
    using notes = recordTrace(trace.vfio);
    enable(bench, 2);
    expect(bench.nic.wired()[MSI]).toEqual([0, 1, 2]);
    expect(notes.events.at(-1)?.text).toBe('MSI on: 3 of 4 vectors wired, 3 irqfds');
    bench.nic.fire(MSI, 2);
    expect(delivered(bench)).toEqual([[0x42, 1]]);
  });

  test('a masked message is pending, and delivered at unmask', () => {
    using scope = new Scope();
    const bench = openNic(scope);
    bench.device.configWrite(nicOffsets.msi + 0x10, 4, 0b10);
    enable(bench, 1);
    bench.nic.fire(MSI, 1);
    expect(delivered(bench)).toEqual([]);
    expect(bench.device.configRead(nicOffsets.msi + 0x14, 4)).toBe(0b10);
    bench.device.configWrite(nicOffsets.msi + 0x10, 4, 0);
    expect(delivered(bench)).toEqual([[0x41, 1]]);
    expect(bench.device.configRead(nicOffsets.msi + 0x14, 4)).toBe(0);
  });

  test('message and number of vectors may change while enabled', () => {
    using scope = new Scope();
    const bench = openNic(scope);
    enable(bench, 0);
    bench.device.configWrite(nicOffsets.msi + 12, 2, 0x61);
    bench.nic.fire(MSI, 0);
    expect(delivered(bench)).toEqual([[0x61, 1]]);
    bench.device.configWrite(MSI_CONTROL, 2, 0x0011);
    expect(bench.nic.wired()[MSI]).toEqual([0, 1]);
    bench.nic.fire(MSI, 1);
    expect(delivered(bench)).toEqual([[0x61, 1]]);
  });

  test('the pending register works in a 32-bit capability, and is absent without per-vector masking', () => {
    for (const control of [0x0104, 0x0084, 0x0004]) {
      using scope = new Scope();
      const config = createScriptedNic().config.slice();
      config.set([control & 0xff, control >> 8], MSI_CONTROL);
      config.fill(0, nicOffsets.msi + 4, nicOffsets.exp);
      const bench = openNic(scope, { init: { config } });
      const is64 = (control & 0x80) !== 0;
      bench.device.configWrite(nicOffsets.msi + 4, 4, 0xfee00000);
      bench.device.configWrite(nicOffsets.msi + (is64 ? 12 : 8), 2, 0x30);
      if ((control & 0x100) !== 0) bench.device.configWrite(nicOffsets.msi + 0x0c, 4, 1);
      bench.device.configWrite(MSI_CONTROL, 2, 1);
      bench.nic.fire(MSI, 0);
      expect(delivered(bench)).toEqual((control & 0x100) !== 0 ? [] : [[0x30, 1]]);
      if ((control & 0x100) !== 0) expect(bench.device.configRead(nicOffsets.msi + 0x10, 4)).toBe(1);
    }
  });

  test('if the host cannot provide that many vectors, fewer are requested', () => {
    using scope = new Scope();
    const bench = openNic(scope, {
      init: { irqs: { [MSI]: { count: 4 }, [INTX]: { count: 1 } } },
    });
    const setIrqs = bench.nic.setIrqs.bind(bench.nic);
    bench.nic.setIrqs = (set) => {
      if (set.index === MSI && set.count > 1) bench.nic.failures.set('setIrqs', 'ENOSPC');
      try {
        setIrqs(set);
      } finally {
        bench.nic.failures.clear();
      }
    };
    enable(bench, 2);
    expect(bench.nic.wired()[MSI]).toEqual([0]);
  });
});

describe('INTx', () => {
  const line = ({ environment: { interrupts } }: Bench): FakeLevelLine =>
    [...interrupts.levels][0] as FakeLevelLine;

  test('the pin is wired when the device is attached, trigger before unmask', () => {
    using scope = new Scope();
    const bench = openNic(scope);
    expect(bench.device.interruptMode).toBe('intx');
    expect(line(bench).gsi).toBe(16);
    expect(bench.device.configRead(0x3c, 2)).toBe(0x0110);
    expect(irqCalls(bench).filter((call) => call.startsWith(`${INTX}:`))).toEqual([
      `${INTX}: 0+1 fd`,
      `${INTX}: 0+1 fd`,
    ]);
    bench.nic.fire(INTX);
    expect(line(bench).isAsserted).toBe(true);
    line(bench).eoi();
    expect(line(bench).isAsserted).toBe(false);
    expect(bench.environment.signals.watched.has(line(bench).resamplefd)).toBe(false);
  });

  test('INTx is unmasked by software, with a note, if the provider cannot unmask by eventfd', () => {
    using scope = new Scope();
    using notes = recordTrace(trace.vfio);
    const nic = scope.own(createScriptedNic());
    nic.failures.set('unmaskBy', 'ENOTTY');
    const environment = fakeEnvironment();
    const device = scope.own(VfioPciDevice.open('nic', nic, environment, { routeIntx: () => 16 }));
    const bench = { nic, device, environment };
    const { resamplefd } = line(bench);
    nic.calls.length = 0;
    signalEventfd(resamplefd);
    environment.signals.deliver();
    expect(irqCalls(bench)).toEqual([`${INTX}: 0+1`]);
    expect(notes.events.some(({ what, text }) => what === 'intx' && text?.includes('ENOTTY'))).toBe(true);
    device.configWrite(MSIX_CONTROL, 2, 0x8000);
    expect(environment.signals.watched.has(resamplefd)).toBe(false);
  });

  test('the guest switches from INTx to MSI to MSI-X and back, one at a time', () => {
    using scope = new Scope();
    const bench = openNic(scope);
    const { device, nic, environment } = bench;
    const modes: string[] = [];
    const look = (): void => {
      const wired = Object.keys(nic.wired()).filter((index) => Number(index) <= MSIX);
      modes.push(`${device.interruptMode} ${wired} ${environment.interrupts.levels.size}`);
    };
    look();
    device.configWrite(MSI_CONTROL, 2, 1);
    look();
    using misuse = recordTrace(trace.guestMisuse);
    device.configWrite(MSIX_CONTROL, 2, 0x8000);
    look();
    expect(misuse.events).toHaveLength(1);
    device.configWrite(MSI_CONTROL, 2, 0);
    look();
    device.configWrite(MSIX_CONTROL, 2, 0);
    look();
    expect(modes).toEqual(['intx 0 1', 'msi 1 0', 'msix 2 0', 'msix 2 0', 'intx 0 1']);
  });
});
