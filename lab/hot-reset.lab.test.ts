/**
 * Two functions of one slot, and of one IOMMU group, that have no reset of their own, as a graphics card with its audio
 * function: both are bound before the group is opened, and the bus is reset.
 */
import { execFileSync } from 'node:child_process';
import { readlinkSync } from 'node:fs';
import { basename } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { runLoudly } from './command-line.js';
import { KernelTrace } from './kernel-trace.js';

const { LAB_PAIR: FIRST = '', LAB_PAIR_1: SECOND = '' } = process.env;
/** The built-in guest's verdict when the NIC is not a virtio-net device: it ran, so the device was attached. */
const RAN = 2;
/** What the ioctl VFIO_DEVICE_PCI_HOT_RESET calls; the kernel's own reset at the last close does not. */
const HOT_RESET = { symbol: 'vfio_pci_dev_set_hot_reset', arguments: {} } as const;
const BUS_RESET = { symbol: 'pci_reset_bus', arguments: {} } as const;

describe.skipIf(FIRST === '' || SECOND === '')('two functions that the host uses', () => {
  beforeAll(() => {
    execFileSync('vfio-load');
    execFileSync('modprobe', ['e1000']);
  });
  afterAll(() => void execFileSync('modprobe', ['-r', 'e1000']));
  const drivers = () =>
    [FIRST, SECOND].map((address) => basename(readlinkSync(`/sys/bus/pci/devices/${address}/driver`)));

  test.each(['group', 'iommufd'])('are both bound for the run, and restored after it (%s)', (how) => {
    const before = drivers();
    const options = `bind=vfio-pci,interface=${how}`;
    const args = [FIRST, SECOND].flatMap((address) => ['--device', `${address},${options}`]);
    const { status, error, output } = runLoudly(args);
    expect([status, error], output).toEqual([RAN, '']);
    expect(before).toEqual(['e1000', 'e1000']);
    expect(drivers()).toEqual(before);
  });
});

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
