import { expect, test } from 'vitest';
import { Mapping } from '../sys/mapping.js';
import { CoalescedRing } from './coalesced.js';
import { KVM_COALESCED_MMIO_PAGE_OFFSET } from './uapi.js';

const PAGE = 4096;
/** Bytes before the entries, bytes of an entry, and entries of a page, as struct kvm_coalesced_mmio_ring has them. */
const HEADER = 8;
const ENTRY = 24;
const CAPACITY = 170;

interface Entry {
  readonly address: bigint;
  readonly bytes: number;
  readonly isPio?: boolean;
}

/** A ring in memory of the test, which writes it as KVM does. */
function ringIn(memory: Mapping) {
  const page = memory.view.slice(KVM_COALESCED_MMIO_PAGE_OFFSET * PAGE, PAGE);
  const view = new DataView(page.buffer, page.byteOffset, PAGE);
  const handle = { target: 'vcpu 0', fd: -1, address: Number(memory.hva), bytes: memory.bytes };
  const ring = CoalescedRing.of(handle);
  return {
    ring,
    view,
    put({ address, bytes, isPio = false }: Entry): void {
      const last = view.getUint32(4, true);
      const at = HEADER + (last % CAPACITY) * ENTRY;
      view.setBigUint64(at, address, true);
      view.setUint32(at + 8, bytes, true);
      view.setUint32(at + 12, isPio ? 1 : 0, true);
      for (let i = 0; i < 8; i++) view.setUint8(at + 16 + i, i + 1);
      view.setUint32(4, (last + 1) % CAPACITY, true);
    },
    take(): unknown[] {
      const writes: unknown[] = [];
      const count = ring.drain((address, data, isPio) => writes.push([address, [...data], isPio]));
      return [count, ...writes];
    },
  };
}

test.each([
  { address: 0xd000_0008n, bytes: 4, is: [0xd000_0008, [1, 2, 3, 4], false] },
  { address: 0x12_fedc_ba98n, bytes: 8, is: [0x12_fedc_ba98, [1, 2, 3, 4, 5, 6, 7, 8], false] },
  { address: 0x70n, bytes: 1, isPio: true, is: [0x70, [1], true] },
])('a write of $bytes bytes to $address is passed on as the guest made it', ({ is, ...entry }) => {
  using memory = Mapping.anonymous(3 * PAGE);
  const { put, take } = ringIn(memory);
  expect(take()).toEqual([0]);
  put(entry);
  expect(take()).toEqual([1, is]);
  expect(take()).toEqual([0]);
});

test('every entry of the ring is used in turn, and what is drained is free again', () => {
  using memory = Mapping.anonymous(3 * PAGE);
  const { put, take, view } = ringIn(memory);
  for (let round = 0; round < 3; round++) {
    const addresses = Array.from({ length: CAPACITY - 1 }, (_, i) => 0x1000 * (round + 1) + i);
    for (const address of addresses) put({ address: BigInt(address), bytes: 1 });
    expect(take()).toEqual([CAPACITY - 1, ...addresses.map((address) => [address, [1], false])]);
    expect(view.getUint32(0, true)).toBe(view.getUint32(4, true));
  }
});

test('an entry is free only after its write was passed on, and one that is too long is dropped', () => {
  using memory = Mapping.anonymous(3 * PAGE);
  const { put, ring, take, view } = ringIn(memory);
  put({ address: 1n, bytes: 1 });
  put({ address: 2n, bytes: 1 });
  const first: number[] = [];
  ring.drain(() => first.push(view.getUint32(0, true)));
  expect(first).toEqual([0, 1]);
  put({ address: 3n, bytes: 9 });
  put({ address: 4n, bytes: 0 });
  expect(take()).toEqual([2, [4, [], false]]);
});
