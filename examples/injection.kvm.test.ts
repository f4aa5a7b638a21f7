/** registerAssignment in a container of the caller's own tsyringe, which is another copy than the package's. */
import 'reflect-metadata';
import { Assignment, GuestMemory, PolledEventThread, portTokens, registerAssignment } from 'tsvisor/assign';
import { Doorbells } from 'tsvisor/devices';
import { gpa, Kvm, Mapping } from 'tsvisor/kvm';
import { FakeDoorbells } from 'tsvisor/testing';
import { VfioProvider } from 'tsvisor/vfio';
import { container as root } from 'tsyringe';
import { expect, test } from 'vitest';

const WINDOW = { kind: 'mmio', base: 0xc000_0000n, bytes: 0x1000_0000n } as const;

test('what the container holds is used, the rest are defaults, and disposing frees what these opened', async () => {
  await using events = await PolledEventThread.start();
  using kvm = Kvm.open();
  using vm = kvm.createVm();
  vm.createIrqchip();
  using ram = Mapping.huge(16 << 20);
  const container = root.createChildContainer();
  const doorbells = new FakeDoorbells();
  container.register(Doorbells, { useValue: doorbells });
  using _owned = registerAssignment(container, { vm, eventThread: events, windows: [WINDOW] });
  const memory = container.resolve(portTokens.memoryMap);
  memory.addRam(gpa(0n), ram);
  expect(container.resolve(GuestMemory)).toBe(memory);
  expect(container.resolveAll<VfioProvider>(VfioProvider).map(({ name }) => name)).toEqual([
    'core',
    'host',
    'vfio-user',
  ]);

  const assignment = container.resolve(Assignment);
  expect(container.resolve(Assignment)).toBe(assignment);
  using assigned = assignment.attach({ address: 'virtio-net' });
  assigned.function.configWrite(0x14, 4, 0xc001_0000);
  assigned.function.configWrite(0x20, 4, 0xc000_0000);
  assigned.function.configWrite(0x04, 2, 6);
  expect(doorbells.bells.length).toBeGreaterThan(0);
  expect(memory.regions.some(({ kind }) => kind === 'ram')).toBe(true);
});

test('a port without a default that nobody registered is named by its token', () => {
  const container = root.createChildContainer();
  using _owned = registerAssignment(container);
  expect(() => container.resolve(Assignment)).toThrowError(/Vm|EventThread/);
});
