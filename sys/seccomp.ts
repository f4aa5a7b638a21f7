/** A filter of system calls: those in a list are allowed, by their arguments where that matters. @see seccomp(2) */
import { BpfProgram } from './bpf.js';
import { errno as errnos } from './errno.js';
import { SysError } from './error.js';
import { checked } from './fd.js';
import * as libc from './libc.js';
import { SYSTEM_CALLS, type SystemCallName } from './system-calls.js';

// linux/seccomp.h, linux/audit.h
const SECCOMP_SET_MODE_FILTER = 1;
const SECCOMP_FILTER_FLAG_TSYNC = 1 << 0;
const SECCOMP_FILTER_FLAG_LOG = 1 << 1;
export const SECCOMP_RET_KILL_PROCESS = 0x8000_0000;
export const SECCOMP_RET_ERRNO = 0x0005_0000;
export const SECCOMP_RET_LOG = 0x7ffc_0000;
export const SECCOMP_RET_ALLOW = 0x7fff_0000;
const AUDIT_ARCH_X86_64 = 0xc000_003e;
/** Calls of the x32 ABI have this bit. */
const X32_SYSCALL_BIT = 0x4000_0000;
/** From here on, calls are younger than the list: a library that tries one falls back if the kernel does not know it. */
const FIRST_UNKNOWN = 450;

// struct seccomp_data
const NR_AT = 0;
const ARCH_AT = 4;
const lowHalfAt = (arg: number): number => 16 + 8 * arg;

const PR_SET_NO_NEW_PRIVS = 38;

/**
 * What an argument has to be. The kernel reads `oneOf` and `bits` arguments as 32-bit values, whatever the upper half of
 * the register is; `isZero` is of all 64 bits.
 */
export type CallCondition =
  | {
      /** Its place, 0 to 5. */
      readonly arg: number;
      /** Values that it can have. */
      readonly oneOf: readonly number[];
    }
  | {
      /** Its place, 0 to 5. */
      readonly arg: number;
      /** Bits that count. */
      readonly bits: number;
      /** What these have to be. */
      readonly are: number;
    }
  | {
      /** Its place, 0 to 5. */
      readonly arg: number;
      /** It has to be 0. */
      readonly isZero: true;
    };

/** A call that the filter allows. */
export interface CallRule {
  /** The call. */
  readonly name: SystemCallName;
  /** All of these; absent: with any arguments; `never`: not at all, for the sake of `otherwise`. */
  readonly when?: readonly CallCondition[] | 'never';
  /** The errno where they do not hold, for a call that libraries try and can do without. */
  readonly otherwise?: number;
}

/** What happens to any other call: it fails with EPERM, it ends the process by SIGSYS, or it is made and logged. */
export type Refusal = 'errno' | 'kill' | 'log';

const errnoAction = (errno: number): number => SECCOMP_RET_ERRNO | errno;

const actionOf = (refusal: Refusal): number =>
  refusal === 'kill'
    ? SECCOMP_RET_KILL_PROCESS
    : refusal === 'log'
      ? SECCOMP_RET_LOG
      : errnoAction(errnos.EPERM);

/** Values beside each other that are tested one by one. */
const MOST_IN_A_ROW = 3;

class FilterWriter {
  readonly #program = new BpfProgram();
  #labels = 0;

  constructor(rules: readonly CallRule[], refusal: Refusal) {
    const program = this.#program;
    program.load(ARCH_AT).when('jeq', AUDIT_ARCH_X86_64, 'native').ret(SECCOMP_RET_KILL_PROCESS);
    program.label('native').load(NR_AT).when('jge', X32_SYSCALL_BIT, 'refused');
    const targets = new Map<number, string>();
    for (const { name, when } of rules) {
      const number = SYSTEM_CALLS[name];
      if (targets.has(number)) throw new RangeError(`there are two rules for ${name}`);
      targets.set(number, when === undefined ? 'allowed' : name);
    }
    this.#search(targets, 'unlisted');
    program.label('unlisted');
    if (refusal !== 'log')
      program
        .when('jge', FIRST_UNKNOWN, 'unknown')
        .goto('refused')
        .label('unknown')
        .ret(errnoAction(errnos.ENOSYS));
    program.goto('refused');
    for (const rule of rules) if (rule.when !== undefined) this.#conditions(rule);
    program.label('refused').ret(actionOf(refusal));
    program.label('allowed').ret(SECCOMP_RET_ALLOW);
  }

  encode(): Uint8Array<ArrayBuffer> {
    return this.#program.encode();
  }

  #conditions({ name, when, otherwise }: CallRule): void {
    const program = this.#program.label(name);
    const no = otherwise === undefined ? 'refused' : `not ${name}`;
    for (const condition of when === 'never' || when === undefined ? [] : when) {
      const yes = this.#newLabel();
      if ('oneOf' in condition) {
        program.load(lowHalfAt(condition.arg));
        this.#search(new Map(condition.oneOf.map((value) => [value, yes])), no);
      } else if ('bits' in condition) {
        program.load(lowHalfAt(condition.arg)).and(condition.bits);
        program.when('jeq', condition.are, yes).goto(no);
      } else {
        const low = this.#newLabel();
        program
          .load(lowHalfAt(condition.arg) + 4)
          .when('jeq', 0, low)
          .goto(no);
        program.label(low).load(lowHalfAt(condition.arg)).when('jeq', 0, yes).goto(no);
      }
      program.label(yes);
    }
    if (when !== 'never') program.goto('allowed');
    if (otherwise !== undefined) program.label(no).ret(errnoAction(otherwise));
  }

  /** Goes to the target of the accumulator's value. The first value is tested first: the one that is hot. */
  #search(targets: ReadonlyMap<number, string>, otherwise: string): void {
    const [hot, ...others] = targets;
    if (hot !== undefined) this.#program.when('jeq', hot[0], hot[1]);
    this.#searchSorted(
      others.sort(([a], [b]) => a - b),
      otherwise,
    );
  }

  #searchSorted(sorted: readonly (readonly [number, string])[], otherwise: string): void {
    if (sorted.length <= MOST_IN_A_ROW) {
      for (const [value, target] of sorted) this.#program.when('jeq', value, target);
      this.#program.goto(otherwise);
      return;
    }
    const middle = sorted.length >> 1;
    const upper = this.#newLabel();
    this.#program.when('jge', (sorted[middle] as readonly [number, string])[0], upper);
    this.#searchSorted(sorted.slice(0, middle), otherwise);
    this.#program.label(upper);
    this.#searchSorted(sorted.slice(middle), otherwise);
  }

  #newLabel = (): string => `#${this.#labels++}`;
}

/**
 * The filter as an array of struct sock_filter. The first rule is tested first, and the first value of each `oneOf`.
 * @throws RangeError for two rules of one call
 */
export const seccompProgram = (rules: readonly CallRule[], refusal: Refusal): Uint8Array<ArrayBuffer> =>
  new FilterWriter(rules, refusal).encode();

/** A filter, as {@link seccompProgram}, that fails one call with ENOSYS and leaves all others alone. */
export const lackingProgram = (name: SystemCallName): Uint8Array<ArrayBuffer> =>
  new BpfProgram()
    .load(NR_AT)
    .when('jeq', SYSTEM_CALLS[name], 'lacking')
    .ret(SECCOMP_RET_ALLOW)
    .label('lacking')
    .ret(errnoAction(errnos.ENOSYS))
    .encode();

/** Gives up for good what set-user-ID programs and file capabilities would add. All threads get it with {@link filterCalls}. */
export function setNoNewPrivs(): void {
  checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 'prctl', 'PR_SET_NO_NEW_PRIVS');
}

/**
 * Installs a filter in all threads of the process, for good; threads to come inherit it.
 * @throws SysError EINVAL on a kernel without CONFIG_SECCOMP_FILTER; EACCES before {@link setNoNewPrivs}; ESRCH if a thread
 *   has a filter of its own that this one cannot follow
 */
export function filterCalls(program: Uint8Array<ArrayBuffer>): void {
  using instructions = new libc.PinnedBytes(program.length);
  instructions.bytes.set(program);
  using fprog = new libc.PinnedBytes(16);
  const view = new DataView(fprog.bytes.buffer);
  view.setUint16(0, program.length / 8, true);
  view.setBigUint64(8, BigInt(instructions.address), true);
  const flags = SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_LOG;
  const result = libc.syscall(SYSTEM_CALLS.seccomp, SECCOMP_SET_MODE_FILTER, flags, fprog.address);
  checked(result, 'seccomp', 'this process', 'the kernel needs CONFIG_SECCOMP_FILTER, and Linux 4.14');
  // A thread's number: it could not be given the filter.
  if (result > 0) throw new SysError({ call: 'seccomp', target: `thread ${result}`, errno: errnos.ESRCH });
}
