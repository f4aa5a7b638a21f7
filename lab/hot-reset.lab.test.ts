/** Two functions that have no reset of their own, as a graphics card with its audio function: the bus is reset. */
import { execFileSync } from 'node:child_process';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { runLoudly } from './command-line.js';
import { KernelTrace } from './kernel-trace.js';

const { LAB_PAIR: FIRST = '', LAB_PAIR_1: SECOND = '' } = process.env;
/** The built-in guest's verdict when the NIC is not a virtio-net device: it ran, so the device was attached. */
const RAN = 2;
/** What the ioctl VFIO_DEVICE_PCI_HOT_RESET calls; the kernel's own reset at the last close does not. */
const HOT_RESET = { symbol: 'vfio_pci_dev_set_hot_reset', arguments: {} } as const;
const BUS_RESET = { symbol: 'pci_reset_bus', arguments: {} } as const;

describe.skipIf(FIRST === '' || SECOND === '')('two functions without FLR', () => {
  let trace: KernelTrace;
  beforeAll(() => {
    execFileSync('vfio-load');
    execFileSync('vfio-bind', [FIRST, SECOND]);
    trace = new KernelTrace([HOT_RESET, BUS_RESET]);
  });
  afterAll(() => {
    trace?.[Symbol.dispose]();
    execFileSync('vfio-unbind', [FIRST, SECOND]);
  });
  const count = ({ symbol }: { readonly symbol: string }): number =>
    trace.calls.filter((call) => call.symbol === symbol).length;

  test.each(['group', 'iommufd'])('are reset together by a hot reset (%s)', (how) => {
    trace.clear();
    const args = [FIRST, SECOND].flatMap((address) => ['--device', `${address},interface=${how}`]);
    const { status, error, output } = runLoudly(args);
    expect([status, error], output).toEqual([RAN, '']);
    expect(count(HOT_RESET), output).toBeGreaterThan(0);
    expect(count(BUS_RESET), output).toBeGreaterThanOrEqual(count(HOT_RESET));
  });
});
