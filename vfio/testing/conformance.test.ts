import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Mapping } from '../../sys/mapping.js';
import { VfioCore } from '../core/core.js';
import type { VendorDriver } from '../driver.js';
import { vfioConformance } from './conformance.js';
import { RecordingDevice } from './recording-device.js';

describe('conformance of the core', () => {
  const warnings: string[] = [];
  const core = new VfioCore({ ports: { warn: (text) => warnings.push(text) } });
  const type = { name: 'sample', description: 'a sample', deviceApi: 'vfio-pci', maxInstances: 1 };
  const driver: VendorDriver = {
    name: 'sample-driver',
    types: [type],
    create: () => ({
      ops: new RecordingDevice('sample', { irqs: [1, 8, 4] }),
      [Symbol.dispose]: () => undefined,
    }),
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
