import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Mapping } from '../../sys/mapping.js';
import { VfioCore } from '../core/core.js';
import type { DmaLoggingOps, VendorDriver } from '../driver.js';
import { vfioConformance } from './conformance.js';
import { RecordingDevice } from './recording-device.js';
import { RecordingMigration } from './recording-migration.js';

describe('conformance of the core', () => {
  const warnings: string[] = [];
  const core = new VfioCore({ ports: { warn: (text) => warnings.push(text) } });
  const type = { name: 'sample', description: 'a sample', deviceApi: 'vfio-pci', maxInstances: 1 };
  const driver: VendorDriver = {
    name: 'sample-driver',
    types: [type],
    create: (_type, uuid) => {
      const migration = new RecordingMigration(Uint8Array.from({ length: 3000 }, (_, i) => i));
      const dmaLogging: DmaLoggingOps = {
        start: (_ranges, pageSize) => pageSize,
        stop: () => undefined,
        readAndClear: (_range, _pageSize, bitmap) => bitmap.set([0x55]),
      };
      const slot = {
        functions: [{ name: uuid }, { name: '0000:00:1f.0', group: 4711 }],
        reset: () => undefined,
      };
      const ops = Object.assign(new RecordingDevice('sample', { irqs: [1, 8, 4], pci: { slot } }), {
        migration,
        dmaLogging,
      });
      return { ops, [Symbol.dispose]: () => migration[Symbol.dispose]() };
    },
  };
  const eventThread = {
    run() {
      throw new Error('not used here');
    },
  };
  // Made within a hook: what a test file opens must be closed by its tests.
  let memory: Mapping | undefined;
  let registered: Disposable | undefined;
  beforeAll(() => {
    memory = Mapping.anonymous(0x10000);
    registered = core.registerVendorDriver(driver, { eventThread });
  });
  afterAll(() => {
    registered?.[Symbol.dispose]();
    memory?.[Symbol.dispose]();
    core[Symbol.dispose]();
    expect(warnings).toEqual([]);
  });
  const target = {
    provider: core.provider,
    address: 'sample',
    get memory() {
      return memory as Mapping;
    },
    unusedGroup: 9999,
  };
  for (const { name, run } of vfioConformance(target)) test(name, run);

  test('nothing is left of any case', () => {
    expect([...core.live]).toEqual([]);
  });
});
