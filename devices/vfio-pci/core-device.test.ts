import { expect, test } from 'vitest';
import { InlineEventThread } from '../../sys/inline-event-thread.js';
import { Scope } from '../../sys/scope.js';
import { trace } from '../../sys/trace.js';
import { VfioCore } from '../../vfio/index.js';
import {
  VFIO_IRQ_SET_ACTION_TRIGGER,
  VFIO_IRQ_SET_DATA_NONE,
  VFIO_PCI_MSIX_IRQ_INDEX,
  VFIO_TYPE1v2_IOMMU,
} from '../../vfio/uapi.js';
import { fakeEnvironment, recordTrace } from '../testing/fake-ports.js';
import { createQueueTask, createVirtioNetDriver, netBackends } from '../virtio-net/index.js';
import { VfioPciDevice } from './device.js';

test('a device of the in-process core is probed, placed and raises interrupts like any other', () => {
  using scope = new Scope();
  using steps = recordTrace(trace.vfio);
  const task = new URL('test:queue-task');
  const tasks = new Map([[task.href, createQueueTask(netBackends)]]);
  const thread = scope.own(new InlineEventThread(tasks));
  const core = scope.own(new VfioCore());
  const driver = createVirtioNetDriver({ backends: netBackends, task });
  scope.own(core.registerVendorDriver(driver, { eventThread: thread }));
  const { provider } = core;
  const assigned = scope.own(provider.resolve('virtio-net', {}));
  const container = scope.own(provider.groups.openContainer());
  const group = scope.own(provider.groups.openGroup(assigned.group));
  group.setContainer(container);
  container.setIommu(VFIO_TYPE1v2_IOMMU);
  const file = scope.own(group.getDeviceFd(assigned.name));
  const environment = fakeEnvironment();
  const device = scope.own(VfioPciDevice.open('nic', file, environment, { routeIntx: () => 16 }));

  expect(device.configRead(0x00, 4)).toBe(0x10411af4);
  expect(device.interruptMode).toBe('intx');
  device.configWrite(0x14, 4, 0xe0010000);
  device.configWrite(0x20, 4, 0xe0020000);
  device.configWrite(0x04, 2, 0x0006);
  const { mmio, doorbells, interrupts } = environment;
  expect(doorbells.bells.length).toBeGreaterThan(0);
  // Common configuration: the number of queues; of a queue, its size.
  expect([...mmio.read(0xe0020012n, 2)]).toEqual([2, 0]);
  expect([...mmio.read(0xe0020018n, 2)]).toEqual([0, 1]);

  mmio.write32(0xe0010000n, 0xfee00000);
  mmio.write32(0xe0010008n, 0x41);
  mmio.write32(0xe001000cn, 0);
  device.configWrite(device.configRead(0x34, 1) + 2, 2, 0x8000);
  expect(device.interruptMode).toBe('msix');
  expect(interrupts.lines.size, 'only vector 0 has a message').toBe(1);
  mmio.write32(0xe0010020n, 0xfee00000);
  mmio.write32(0xe0010028n, 0x43);
  mmio.write32(0xe001002cn, 0);
  expect(interrupts.lines.size, 'vector 2 added').toBe(2);
  for (const start of [0, 1, 2])
    file.setIrqs({
      index: VFIO_PCI_MSIX_IRQ_INDEX,
      flags: VFIO_IRQ_SET_ACTION_TRIGGER | VFIO_IRQ_SET_DATA_NONE,
      start,
      count: 1,
    });
  expect(interrupts.take().map(({ data }) => data)).toEqual([0x41, 0x43]);
  expect(steps.events.filter(({ text }) => text?.includes('doorbell range'))).toHaveLength(1);
});
