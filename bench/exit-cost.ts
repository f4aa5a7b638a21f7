/**
 * Cost of a KVM exit, from the guest's instruction to the next one: the complete path through tsvisor compared with C.
 */
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { BusDevice } from '../devices/contracts.js';
import type { VcpuExit } from '../kvm/exits.js';
import { MemorySlots } from '../kvm/memory-slots.js';
import { Kvm } from '../kvm/system.js';
import { Regs, Sregs } from '../kvm/uapi-vcpu.js';
import { SysError } from '../sys/error.js';
import { DOOR_NAMES, type IoctlDoor } from '../sys/ioctl-door.js';
import { openDoor } from '../sys/open-door.js';
import { Scope } from '../sys/scope.js';
import { RangeBus } from '../vmm/assign/bus.js';
import { ExitDispatcher } from '../vmm/assign/exit-dispatcher.js';
import { flatMemory } from '../vmm/assign/testing.js';
import { bootSregs, prepareLongMode } from '../vmm/long-mode.js';
import { u32 } from './machine-code.js';
import {
  compileC,
  interleave,
  interleaveEach,
  microseconds,
  type Percentiles,
  processorNs,
  type Rounds,
  scratchFolder,
} from './measure.js';
import { percentileText, type Report } from './report.js';

const MEMORY_BYTES = 2n << 20n;
const CODE = 0x10_0000n;
const PORT = 0x200;
const MMIO_ADDRESS = 0xd000_0000;
/** Few, and many rounds: where others use the processors, some rounds are left in peace. */
const EXITS = 2000;
const ROUNDS = 61;
const ROUNDS_OF_EACH = 25;

const LOOP_AND_HALT = (target: number) => [0xff, 0xc9, 0x75, target & 0xff, 0xf4]; // dec ecx; jnz target; hlt

const guests: Readonly<Record<string, readonly number[]>> = {
  // mov ecx, EXITS; mov edx, PORT; out dx, al; ...
  PIO: [0xb9, ...u32(EXITS), 0xba, ...u32(PORT), 0xee, ...LOOP_AND_HALT(-5)],
  // mov ecx, EXITS; mov ebx, MMIO_ADDRESS; mov [rbx], al; ...
  MMIO: [0xb9, ...u32(EXITS), 0xbb, ...u32(MMIO_ADDRESS), 0x88, 0x03, ...LOOP_AND_HALT(-6)],
};

/** A device as simple as the C loop: it stores the byte. */
function byteSink(): BusDevice & { last: number } {
  const sink = {
    name: 'byte sink',
    last: 0,
    read() {},
    write(_offset: number, data: Uint8Array) {
      sink.last = data[0] as number;
    },
  };
  return sink;
}

interface Contender extends Disposable {
  /** Runs the guest to its end. Returns nanoseconds per exit. */
  run(): number;
  /** The same, with the time of each exit. Valid until the next call. */
  runEach(): Float64Array;
  readonly memory: Uint8Array;
  readonly sregs: Uint8Array;
  readonly regs: Uint8Array;
}

/** A VM like the machine's, whose exits go through dispatcher and buses. */
function createContender(code: readonly number[], door: IoctlDoor): Contender {
  using scope = new Scope();
  const kvm = scope.own(Kvm.open());
  const vm = scope.own(kvm.createVm());
  const memory = flatMemory(scope, MEMORY_BYTES, new MemorySlots(vm));
  memory.ram(CODE, code.length).set(code);
  prepareLongMode(memory, '');
  const vcpu = scope.own(vm.createVcpu(0, door));
  const sregs = { ...vcpu.getSregs(), ...bootSregs() };
  const regs = { rip: CODE, rflags: 2n };
  const [pio, mmio] = [new RangeBus('pio'), new RangeBus('mmio')];
  pio.add(BigInt(PORT), 1n, byteSink());
  mmio.add(BigInt(MMIO_ADDRESS), 4096n, byteSink());
  const exits = new ExitDispatcher(pio, mmio);
  const each = new Float64Array(EXITS);
  const reset = () => {
    vcpu.setSregs(sregs);
    vcpu.setRegs(regs);
  };
  const dispatch = (exit: VcpuExit) => {
    if (!exits.dispatch(0, exit)) throw new Error(`unexpected exit: ${exit.kind}`);
  };
  const owned = scope.move();
  return {
    memory: memory.ram(0n, Number(MEMORY_BYTES)).slice(),
    sregs: Sregs.encode(sregs),
    regs: Regs.encode(regs),
    run() {
      reset();
      const start = process.hrtime.bigint();
      for (let exit = vcpu.run(); exit.kind !== 'hlt'; exit = vcpu.run()) dispatch(exit);
      return Number(process.hrtime.bigint() - start) / EXITS;
    },
    runEach() {
      reset();
      let last = performance.now(); // no BigInt: garbage of ours would be in the times
      let at = 0;
      for (let exit = vcpu.run(); exit.kind !== 'hlt'; exit = vcpu.run()) {
        dispatch(exit);
        const now = performance.now();
        each[at++] = (now - last) * 1e6;
        last = now;
      }
      return each;
    },
    [Symbol.dispose]: () => owned[Symbol.dispose](),
  };
}

/** Those that are there; reports why another one is not. */
const openDoors = (report?: Report): readonly IoctlDoor[] =>
  DOOR_NAMES.flatMap((name) => {
    try {
      return openDoor(name);
    } catch (error) {
      if (!(error instanceof SysError)) throw error;
      report?.line(`  ${name} is left out: ${error.hint}`);
      return [];
    }
  });

/** Our side alone, by processor time: the other side's turns and other programs do not count. */
export function exitCostRounds(scope: Scope): Rounds {
  const rounds: Record<string, () => number> = {};
  for (const [kind, code] of Object.entries(guests)) {
    for (const door of openDoors()) {
      const contender = scope.own(createContender(code, door));
      rounds[`${kind} exit by ${door.name}`] = () => processorNs(() => contender.run()) / EXITS;
    }
  }
  return rounds;
}

/** Prints cost and ratio for each kind of exit. */
export async function exitCost(report: Report): Promise<void> {
  using folder = scratchFolder();
  const loop = compileC('exit-loop', folder.path);
  const doors = openDoors(report);
  for (const [kind, code] of Object.entries(guests)) {
    using scope = new Scope();
    const ours = doors.map((door) => [door.name, scope.own(createContender(code, door))] as const);
    const files = ['memory', 'sregs', 'regs'].map((name) => join(folder.path, name));
    const [, sample] = ours[0] as (typeof ours)[0];
    [sample.memory, sample.sregs, sample.regs].forEach((bytes, i) => {
      writeFileSync(files[i] as string, bytes);
    });
    const byC = (what: string) => execFileSync(loop, [...files, what], { encoding: 'utf8' });
    const means = await interleave(ROUNDS, {
      C: () => Number(byC('mean')),
      ...Object.fromEntries(ours.map(([door, contender]) => [door, () => contender.run()])),
    });
    const each = await interleaveEach(ROUNDS_OF_EACH, {
      C: () => byC('each').trim().split('\n').map(Number),
      ...Object.fromEntries(ours.map(([door, contender]) => [door, () => contender.runEach()])),
    });
    const c = means.C as number;
    for (const [by, value] of Object.entries(means)) {
      const times = each[by] as Percentiles;
      const ratio = by === 'C' ? '' : `, ${(value / c).toFixed(2)} x C`;
      report.line(
        `  ${kind} exit by ${by}: ${microseconds(value)}${ratio}; ${times.samples} timed: ${percentileText(times)}`,
      );
      const name = `${kind} exit by ${by}`;
      const against = by === 'C' ? {} : { ratio: { to: `${kind} exit by C`, value: value / c } };
      report.add({ benchmark: 'exit-cost', name, unit: 'ns', value, each: times, ...against });
    }
  }
}
