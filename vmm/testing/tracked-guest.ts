/** For tests: a VM whose memory vendor drivers of this process can use, with the rules of KVM's slots. */
import { gpa, PAGE_SIZE } from '../../sys/address.js';
import type { KvmGuest } from '../../sys/kvm-guest.js';
import { Mapping } from '../../sys/mapping.js';
import type { Scope } from '../../sys/scope.js';
import { ScriptedVm } from '../../vfio/testing/index.js';
import { RangeBus } from '../assign/bus.js';
import { ExitDispatcher } from '../assign/exit-dispatcher.js';
import { MemoryMap } from '../assign/memory-map.js';
import { holdNothing, PageTrack } from '../assign/page-track.js';
import { RuledSlots } from '../assign/testing/ruled-slots.js';

const PAGE = Number(PAGE_SIZE);
export const RAM_PAGES = 128;
export const RAM = RAM_PAGES * PAGE;
/** Where guests put the table of a vgpu-gtt: in the middle of RAM, and longer than a page. */
export const TABLE = 40 * PAGE;
export const ENTRIES = 700;

/** A VM with RAM from 0 on, whose exits are dispatched. */
export class TrackedGuest {
  readonly vm: ScriptedVm;
  readonly track: PageTrack;
  readonly memory: MemoryMap;
  readonly slots = new RuledSlots();
  readonly #exits: ExitDispatcher;

  constructor(
    scope: Scope,
    name = 'vm',
    wrap: (guest: KvmGuest, vm: ScriptedVm) => KvmGuest = (guest) => guest,
  ) {
    this.vm = new ScriptedVm(name);
    this.memory = scope.own(new MemoryMap(this.slots));
    this.memory.addRam(gpa(0n), scope.own(Mapping.huge(RAM)));
    const { memory } = this;
    this.track = scope.own(new PageTrack({ memory, reference: this.vm, hold: holdNothing }));
    this.#exits = new ExitDispatcher(new RangeBus('pio'), new RangeBus('mmio'), this.track);
    this.vm.guest = wrap(this.track, this.vm);
  }

  get ram(): Uint8Array {
    return this.memory.ram(0n, RAM);
  }

  /** As a processor writes: to a read-only slot it exits, to another it does not. */
  write(at: number, data: Uint8Array): void {
    const slot = this.slots.all.find(({ gpa: first, bytes }) => at >= first && at < first + bytes);
    if (slot?.isReadonly === false) this.ram.set(data, at);
    else this.#exits.dispatch(0, { kind: 'mmio', address: at, data, isWrite: true });
  }

  writeEntry(index: number, entry: bigint): void {
    this.write(TABLE + 8 * index, new Uint8Array(new BigUint64Array([entry]).buffer));
  }

  end(): void {
    this.track[Symbol.dispose]();
    this.vm.put();
  }
}
