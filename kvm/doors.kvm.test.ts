import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { errno } from '../sys/errno.js';
import { isErrno } from '../sys/error.js';
import { DOOR_NAMES, type IoctlDoor } from '../sys/ioctl-door.js';
import { openDoor } from '../sys/open-door.js';
import { VcpuRunner } from './runner.js';
import { Assembler, TestGuest } from './testing.js';
import { KVM_INTERRUPT, KVM_RUN } from './uapi-vcpu.js';

/** Undefined if it is absent here: `npm run consumers` has them all, on each Node. */
function doorIfThere(name: (typeof DOOR_NAMES)[number]): IoctlDoor | undefined {
  try {
    return openDoor(name);
  } catch (error) {
    if (isErrno(error, 'ENOSYS') || isErrno(error, 'ENOENT')) return undefined;
    throw error;
  }
}

for (const name of DOOR_NAMES) {
  const door = doorIfThere(name);
  test.skipIf(door === undefined)(`${name}: the guest's exits, and every errno of KVM, come through`, () => {
    using guest = TestGuest.create({ door: name, irqchip: 'full' });
    guest.load(new Assembler().out(0x500).in(0x60));
    expect(guest.run()).toMatchObject({ kind: 'io', isWrite: true, port: 0x500 });
    expect(guest.run()).toMatchObject({ kind: 'io', isWrite: false, port: 0x60 });
    const call = (request: number, value: number) => door?.prepare(guest.vcpu.fd.number, request, value)();
    expect(call(KVM_RUN.number, 1)).toBe(-errno.EINVAL);
    expect(call(KVM_INTERRUPT.number, 0)).toBe(-errno.EFAULT);
    expect(call(KVM_INTERRUPT.number, Number(guest.memory.hva))).toBe(-errno.ENXIO);
    guest.vcpu.page.setImmediateExit(true);
    expect(guest.vcpu.run().kind).toBe('interrupted');
    using waiting = guest.vm.createVcpu(1, name);
    waiting.page.setImmediateExit(true);
    expect(waiting.run().kind).toBe('interrupted');
  });

  test.skipIf(door === undefined)(
    `${name}: each kick interrupts KVM_RUN, and threads and the process can end`,
    () => {
      const program = fileURLToPath(new URL('../consumers/programs/plain/doors.mjs', import.meta.url));
      const { stdout, stderr, status, signal } = spawnSync(process.execPath, [program, name, 'kvm'], {
        encoding: 'utf8',
        timeout: 100_000,
      });
      expect({ stdout, stderr, status, signal }).toEqual({
        stdout: `${name} works\n`,
        stderr: '',
        status: 0,
        signal: null,
      });
    },
    120_000,
  );
}

test('a door of one’s own calls KVM_RUN, and its errno is the exit’s', () => {
  const prepared: unknown[] = [];
  let next: number | undefined;
  const own: IoctlDoor = {
    name: 'counted',
    prepare(fd, request, value) {
      prepared.push([fd, request, value]);
      const call = openDoor('ffi-rs').prepare(fd, request, value);
      return () => next ?? call();
    },
  };
  using guest = TestGuest.create({ door: own });
  guest.load(new Assembler().out(0x500).hlt());
  expect(prepared).toEqual([[guest.vcpu.fd.number, KVM_RUN.number, 0]]);
  expect(guest.run()).toMatchObject({ kind: 'io', port: 0x500 });
  next = -errno.EAGAIN;
  expect(guest.vcpu.run().kind).toBe('again');
  next = -errno.EIO;
  expect(() => guest.vcpu.run()).toThrowError(/KVM_RUN on vcpu 0: EIO/);
  next = undefined;
  expect(VcpuRunner.of(guest.vcpu.handle, own).run().kind).toBe('hlt');
});
