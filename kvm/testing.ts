/** Building blocks for guests of a few instructions: a minimal assembler, and a VM to run its code in. */
import { type Gpa, gpa, PAGE_SIZE } from '../sys/address.js';
import type { DoorChoice, IoctlDoor } from '../sys/ioctl-door.js';
import { Mapping } from '../sys/mapping.js';
import { Scope } from '../sys/scope.js';
import type { VcpuExit } from './exits.js';
import { longModeSregs } from './long-mode.js';
import { MemorySlots } from './memory-slots.js';
import { Kvm } from './system.js';
import type { Vcpu } from './vcpu.js';
import type { Vm } from './vm.js';

const registers = { rax: 0, rcx: 1, rdx: 2, rbx: 3, rsp: 4, rbp: 5, rsi: 6, rdi: 7 } as const;
type Register = keyof typeof registers;
/** Width of an access in bytes. */
export type Width = 1 | 2 | 4 | 8;

/** Assembles 64-bit machine code, one instruction per call. A jump may target a label defined later. */
export class Assembler {
  /** Guest address of the first instruction. */
  readonly origin: number;
  readonly #bytes: number[] = [];
  readonly #labels = new Map<string, number>();
  readonly #jumps: { readonly at: number; readonly label: string }[] = [];

  constructor(origin = CODE) {
    this.origin = origin;
  }

  raw(...bytes: number[]): this {
    this.#bytes.push(...bytes);
    return this;
  }

  /** `mov register, value`: all 64 bits. */
  mov(register: Register, value: bigint | number): this {
    const immediate = new Uint8Array(new BigUint64Array([BigInt.asUintN(64, BigInt(value))]).buffer);
    return this.raw(0x48, 0xb8 + registers[register], ...immediate);
  }

  /** `mov [rbx], rax`, or its low part. */
  store(width: Width): this {
    return this.#sized(width, 0x88, 0x03);
  }

  /** `mov rax, [rbx]`, or its low part. */
  load(width: Width): this {
    return this.#sized(width, 0x8a, 0x03);
  }

  #sized(width: Width, opcode: number, modrm: number): this {
    if (width === 2) this.raw(0x66);
    if (width === 8) this.raw(0x48);
    return this.raw(width === 1 ? opcode : opcode + 1, modrm);
  }

  /** Stores a value at an address: `mov rbx, address; mov rax, value; mov [rbx], rax`. */
  poke(address: bigint | number, value: bigint | number, width: Width = 4): this {
    return this.mov('rbx', address).mov('rax', value).store(width);
  }

  /** `mov rbx, address; mov rax, [rbx]` */
  peek(address: bigint | number, width: Width = 4): this {
    return this.mov('rbx', address).mov('rax', 0).load(width);
  }

  /** `out dx, al`, `ax` or `eax`. */
  out(port: number, width: 1 | 2 | 4 = 1): this {
    this.mov('rdx', port);
    return width === 1 ? this.raw(0xee) : width === 2 ? this.raw(0x66, 0xef) : this.raw(0xef);
  }

  /** `in al, dx`, `ax` or `eax`. */
  in(port: number, width: 1 | 2 | 4 = 1): this {
    this.mov('rdx', port);
    return width === 1 ? this.raw(0xec) : width === 2 ? this.raw(0x66, 0xed) : this.raw(0xed);
  }

  /** `rep outsb`: rcx bytes from [rsi] to port dx. */
  repOutsb = (): this => this.raw(0xf3, 0x6e);
  /** `rep insb`: rcx bytes from port dx to [rdi]. */
  repInsb = (): this => this.raw(0xf3, 0x6c);
  /** `inc qword [address]`; the address is below 2 GiB. */
  incq = (address: number): this => this.raw(0x48, 0xff, 0x04, 0x25, ...u32(address));
  hlt = (): this => this.raw(0xf4);
  sti = (): this => this.raw(0xfb);
  cli = (): this => this.raw(0xfa);
  nop = (): this => this.raw(0x90);
  int3 = (): this => this.raw(0xcc);
  ud2 = (): this => this.raw(0x0f, 0x0b);
  iretq = (): this => this.raw(0x48, 0xcf);
  rdmsr = (): this => this.raw(0x0f, 0x32);
  wrmsr = (): this => this.raw(0x0f, 0x30);
  push = (register: Register): this => this.raw(0x50 + registers[register]);
  pop = (register: Register): this => this.raw(0x58 + registers[register]);

  label(name: string): this {
    this.#labels.set(name, this.#bytes.length);
    return this;
  }

  /** `jmp label` */
  jmp(label: string): this {
    this.raw(0xe9);
    this.#jumps.push({ at: this.#bytes.length, label });
    return this.raw(0, 0, 0, 0);
  }

  /** An interrupt handler: increments the counter at `counter`, signals EOI to the local APIC, returns. */
  handler(label: string, counter: number): this {
    this.label(label).push('rax').push('rbx').incq(counter);
    return this.poke(0xfee000b0, 0).pop('rbx').pop('rax').iretq();
  }

  /** Guest address of a label. @throws RangeError if there is none */
  address(label: string): number {
    const at = this.#labels.get(label);
    if (at === undefined) throw new RangeError(`no label ${label}`);
    return this.origin + at;
  }

  /** The code with its jumps resolved. */
  assemble(): Uint8Array {
    const code = Uint8Array.from(this.#bytes);
    for (const { at, label } of this.#jumps) code.set(u32(this.address(label) - this.origin - (at + 4)), at);
    return code;
  }
}

const u32 = (value: number): number[] => [...new Uint8Array(new Int32Array([value | 0]).buffer)];

// Layout of the guest's first 2 MiB.
const PML4 = 0x1000;
const PDPT = 0x2000;
const PAGE_DIRECTORIES = 0x3000;
const IDT = 0x8000;
const STACK_TOP = 0x10000;
/** Where {@link TestGuest.load} stores the code. */
export const CODE = 0x20000;
/** Scratch memory for the guest's data. */
export const DATA = 0x30000;
/** A guest address outside all memory slots. */
export const HOLE = 0xd000_0000;
const RAM_BYTES = 0x20_0000;
const GIB = 2n ** 30n;
const LARGE_PAGE = 2n ** 21n;
/** Present, writable, accessible at CPL 3. */
const PRESENT = 7n;
const PAGE_IS_LARGE = 0x80n;

/** Options of a {@link TestGuest}. */
export interface TestGuestOptions {
  readonly irqchip?: 'none' | 'full' | 'split';
  /** KVM logs which pages of RAM the guest writes. */
  readonly isLogged?: boolean;
  /** Entries of the vCPU's dirty ring. */
  readonly dirtyRing?: number;
  readonly door?: DoorChoice | IoctlDoor;
  /** Runs before the vCPU is created. */
  readonly prepare?: (vm: Vm) => void;
}

/** One vCPU in 64-bit mode at CPL 0 with interrupts off, 2 MiB of RAM, and an identity map of the first 4 GiB. */
export class TestGuest implements Disposable {
  readonly kvm: Kvm;
  readonly vm: Vm;
  readonly vcpu: Vcpu;
  readonly slots: MemorySlots;
  readonly memory: Mapping;
  readonly #scope: Scope;

  private constructor(kvm: Kvm, vm: Vm, vcpu: Vcpu, slots: MemorySlots, memory: Mapping, scope: Scope) {
    this.kvm = kvm;
    this.vm = vm;
    this.vcpu = vcpu;
    this.slots = slots;
    this.memory = memory;
    this.#scope = scope;
  }

  static create(options: TestGuestOptions = {}): TestGuest {
    using scope = new Scope();
    const kvm = scope.own(Kvm.open());
    const vm = scope.own(kvm.createVm());
    // Processors without unrestricted guest mode need both, outside all slots.
    vm.setTssAddr(gpa(0xfffb_d000n));
    vm.setIdentityMapAddr(gpa(0xfffb_c000n));
    if (options.dirtyRing !== undefined) vm.enableDirtyRings(options.dirtyRing);
    const memory = scope.own(Mapping.anonymous(RAM_BYTES));
    const slots = new MemorySlots(vm);
    scope.own(slots.add(gpa(0n), memory.hva, BigInt(RAM_BYTES), { isLogged: options.isLogged }));
    if (options.irqchip === 'full') vm.createIrqchip();
    if (options.irqchip === 'split') vm.enableSplitIrqchip();
    options.prepare?.(vm);
    const vcpu = scope.own(vm.createVcpu(0, options.door));
    vcpu.setCpuid2(kvm.getSupportedCpuid());
    const guest = new TestGuest(kvm, vm, vcpu, slots, memory, scope.move());
    guest.#buildPageTables();
    guest.#enterLongMode();
    return guest;
  }

  #buildPageTables(): void {
    this.words(PML4, 1)[0] = BigInt(PDPT) | PRESENT;
    const pointers = this.words(PDPT, 4);
    const entries = this.words(PAGE_DIRECTORIES, 4 * 512);
    for (let i = 0; i < 4; i++) pointers[i] = BigInt(PAGE_DIRECTORIES + i * 4096) | PRESENT;
    for (let at = 0n, i = 0; at < 4n * GIB; at += LARGE_PAGE, i++) entries[i] = at | PAGE_IS_LARGE | PRESENT;
  }

  #enterLongMode(): void {
    // iretq reloads CS and SS from here.
    this.words(0x500, 3).set([0n, 0x00af_9b00_0000_ffffn, 0x00cf_9300_0000_ffffn]);
    const dtable = (base: number, limit: number) => ({ base: BigInt(base), limit, padding: [0, 0, 0] });
    this.vcpu.setSregs({
      ...this.vcpu.getSregs(),
      ...longModeSregs(BigInt(PML4)),
      gdt: dtable(0x500, 23),
      idt: dtable(IDT, 4095),
    });
  }

  /** A view of guest RAM as 64-bit words. */
  words(at: number, count: number): BigUint64Array {
    const { buffer, byteOffset } = this.memory.view.slice(at, count * 8);
    return new BigUint64Array(buffer, byteOffset, count);
  }

  /** A view of guest RAM as bytes. */
  bytes(at: number, count: number): Uint8Array {
    return this.memory.view.slice(at, count);
  }

  /** Stores the code in RAM and points the vCPU at its start, with all registers 0 except the stack pointer. */
  load(code: Assembler): this {
    this.bytes(code.origin, 4096).set(code.assemble());
    this.vcpu.setRegs({ rip: BigInt(code.origin), rsp: BigInt(STACK_TOP), rflags: 2n });
    return this;
  }

  /** Points an interrupt or exception vector at the handler at `address`. */
  setVector(vector: number, address: number): this {
    const low = BigInt(address & 0xffff) | (8n << 16n) | (0x8en << 40n) | (BigInt(address >>> 16) << 48n);
    this.words(IDT + vector * 16, 2).set([low, 0n]);
    return this;
  }

  /** Enables the local APIC, as the guest's software would. */
  enableApic(): this {
    const regs = this.vcpu.getLapic();
    new Uint32Array(regs.buffer)[0xf0 / 4] = 0x1ff;
    this.vcpu.setLapic(regs);
    return this;
  }

  /** Moves the vCPU to CPL 3. No interrupt or exception works from there: there is no TSS. */
  enterUserMode(): this {
    const sregs = this.vcpu.getSregs();
    const cs = { ...sregs.cs, selector: 0x1b, dpl: 3 };
    const ss = { ...sregs.ss, selector: 0x23, dpl: 3 };
    this.vcpu.setSregs({ ...sregs, cs, ss, ds: ss, es: ss, fs: ss, gs: ss });
    return this;
  }

  /** Runs to the next exit other than `interrupted` and `again`. */
  run(): VcpuExit {
    for (;;) {
      const exit = this.vcpu.run();
      if (exit.kind !== 'again' && exit.kind !== 'interrupted') return exit;
    }
  }

  /**
   * Runs a guest that exits repeatedly until `isDone` returns true after an exit.
   * @throws Error after five seconds, with the kind of the last exit
   */
  runUntil(isDone: (exit: VcpuExit) => boolean): void {
    const deadline = Date.now() + 5000;
    for (;;) {
      const exit = this.run();
      if (isDone(exit)) return;
      if (Date.now() > deadline) throw new Error(`timed out; last exit: ${exit.kind}`);
    }
  }

  /** Adds a page of memory at a guest address. */
  addPage(at: Gpa, options: { readonly isReadonly?: boolean } = {}): { mapping: Mapping } & Disposable {
    using scope = new Scope();
    const mapping = scope.own(Mapping.anonymous(Number(PAGE_SIZE)));
    scope.own(this.slots.add(at, mapping.hva, PAGE_SIZE, options));
    const owned = scope.move();
    return { mapping, [Symbol.dispose]: () => owned[Symbol.dispose]() };
  }

  [Symbol.dispose](): void {
    this.#scope[Symbol.dispose]();
  }
}
