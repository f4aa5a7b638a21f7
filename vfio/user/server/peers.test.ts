/**
 * Our server against what other people's clients say. The sessions (testing/peers) are built field by field from shapes that
 * were measured, not captured; questions that they send without waiting come without waiting here, too.
 */
import { ftruncateSync } from 'node:fs';
import { expect, test } from 'vitest';
import { drainEventfd } from '../../../sys/eventfd.js';
import { Fd } from '../../../sys/fd.js';
import { createSharedMemory, Mapping } from '../../../sys/mapping.js';
import { Scope } from '../../../sys/scope.js';
import { DMA_BYTES } from '../testing/card.js';
import * as qemu from '../testing/peers/qemu-client.js';
import * as rust from '../testing/peers/rust-vmm.js';
import type { Line } from '../testing/peers/session.js';
import * as spdk from '../testing/peers/spdk-client.js';
import { RawClient } from '../testing/raw-client.js';
import { playClient } from '../testing/scripted-client.js';

interface Played {
  readonly raw: RawClient;
  /** Plays more of it. */
  on(lines: readonly Line[]): void;
  /** What the server has sent. */
  fd(name: string): Fd;
}

function play(scope: Scope, lines: readonly Line[], fds: Readonly<Record<string, Fd>> = {}): Played {
  const raw = scope.own(new RawClient(true));
  const taken = new Map<string, Fd>();
  scope.defer(() => {
    for (const fd of taken.values()) fd[Symbol.dispose]();
  });
  const on = (more: readonly Line[]) => playClient(raw, more, fds, taken);
  on(lines);
  return { raw, on, fd: (name) => taken.get(name) as Fd };
}

test('QEMU: maps come four in a row, with descriptors for the first and the last, and the card finds its RAM', () => {
  using scope = new Scope();
  const ram = scope.own(createSharedMemory('ram', 0x20_0000));
  const bells = { 'vector 0': scope.own(Fd.eventfd('0')), 'vector 2': scope.own(Fd.eventfd('2')) };
  const at = 0x10_1000;
  ram.mapping.view.slice(at, DMA_BYTES).fill(8);
  const session = [...qemu.versions, ...qemu.maps, ...qemu.questions, ...qemu.vectors, ...qemu.kick];
  const { raw, on } = play(scope, session, { ram: ram.fd, ...bells });
  expect([...ram.mapping.view.slice(at - 1, 2)]).toEqual([0, 9]);
  expect(ram.mapping.view.slice(0x1000, 1)[0]).toBe(0);
  expect(drainEventfd(bells['vector 0'].number)).toBe(1n);
  expect(drainEventfd(bells['vector 2'].number)).toBe(0n);
  expect(raw.card.resets).toBe(1);
  on(qemu.remap);
});

test('QEMU: the answer of its version is no longer than its own message', () => {
  const [asked, answered] = qemu.versions.map((line) => ('payload' in line ? line.payload.length : 0));
  expect(asked).toBe(214 - 16);
  expect(answered).toBeLessThanOrEqual(asked as number);
  using scope = new Scope();
  play(scope, qemu.versions);
});

test('QEMU: the card’s memory is mapped by the descriptor of the second answer', () => {
  using scope = new Scope();
  const { raw, fd } = play(scope, [...qemu.versions, ...qemu.questions]);
  using mapped = Mapping.file(fd('card memory'), 4096, { offset: 0x2000 });
  mapped.view.slice(3, 1).set([0x42]);
  expect(raw.card.registers[3]).toBe(0);
  const data = new Uint8Array(1);
  raw.card.read(2, 0x2003, data);
  expect(data[0]).toBe(0x42);
});

test('QEMU: writes that have piled up come in one message', () => {
  using scope = new Scope();
  play(scope, [...qemu.versions, ...qemu.piledWrites]);
});

test.each([
  ['while another question waits', qemu.memoryByMessage],
  ['from 10.2, which answers a write by a header', qemu.writeAnsweredByHeader],
])('QEMU: memory without a descriptor is asked for, %s', (_when, lines) => {
  using scope = new Scope();
  play(scope, [...qemu.versions, ...lines]);
});

test.each(['ENODEV', 'layout of 10.2', 'errno 0'] as const)(
  'QEMU: memory that cannot be read (%s) fails the card’s work, and nothing else',
  (answer) => {
    using scope = new Scope();
    const { on } = play(scope, [...qemu.versions, ...qemu.memoryRefused(answer)]);
    on(qemu.piledWrites);
  },
);

test('SPDK: ids of 0, no JSON, questions of 4064 bytes, and a descriptor with an unmap', () => {
  using scope = new Scope();
  const ram = scope.own(createSharedMemory('ram', 0x2000));
  ram.mapping.view.slice(0, DMA_BYTES).fill(1);
  play(scope, spdk.clientSession, { ram: ram.fd });
  expect([...ram.mapping.view.slice(DMA_BYTES - 1, 2)]).toEqual([2, 0]);
});

test('rust-vmm: a whole session, with RAM at an offset of its file and two vectors in one message', () => {
  using scope = new Scope();
  const ram = scope.own(Fd.memfd('ram'));
  ftruncateSync(ram.number, 0x2000);
  const view = scope.own(Mapping.file(ram, 0x2000, {})).view;
  view.slice(0x1000, DMA_BYTES).fill(4);
  const bells = { 'vector 0': scope.own(Fd.eventfd('0')), 'vector 1': scope.own(Fd.eventfd('1')) };
  const { raw, fd } = play(scope, rust.clientSession, { ram, ...bells });
  expect([view.slice(0, 1)[0], view.slice(0x1000, 1)[0]]).toEqual([0, 5]);
  expect(drainEventfd(bells['vector 0'].number)).toBe(1n);
  expect(fd('memory').isOpen).toBe(true);
  expect(raw.card.resets).toBe(1);
});

test('a session that goes another way is noticed', () => {
  using scope = new Scope();
  const lines = [...qemu.versions, ...qemu.piledWrites];
  expect(() => play(scope, lines.slice(0, -1))).toThrowError(/before line 7 of 6/);
  expect(() => play(scope, [...lines, lines[1] as Line])).toThrowError(/never came: VFIO_USER_VERSION/);
  expect(() =>
    play(scope, [...lines.slice(0, 2), ...qemu.questions.slice(0, 1), lines[3] as Line]),
  ).toThrowError(/but got VFIO_USER_DEVICE_GET_INFO/);
});
