import type { InternalErrorExit, VcpuExit } from '../kvm/exits.js';
import type { Regs } from '../kvm/uapi-vcpu.js';
import type { StructOf } from '../sys/struct.js';

/** How a run ended. */
export type Outcome =
  /** The guest wrote this verdict to the debug-exit port. */
  | {
      readonly kind: 'verdict';
      /** 0 is success. */
      readonly status: number;
    }
  /** The guest shut down. */
  | { readonly kind: 'powered-off' }
  /** The guest requested a reset, and the configuration's `reboot` is off. */
  | { readonly kind: 'reset' }
  /** The machine's owner stopped it. */
  | {
      readonly kind: 'stopped';
      /** Who asked, for a person. */
      readonly by: string;
    }
  /** It was moved, and runs elsewhere. */
  | {
      readonly kind: 'moved';
      /** Where to. */
      readonly to: string;
    }
  /** The guest or KVM cannot continue. */
  | {
      readonly kind: 'crashed';
      /** What happened, in one line. */
      readonly title: string;
      /** Registers and code bytes, a line each. */
      readonly details: readonly string[];
      /** What the reader can do about it. */
      readonly hint: string;
    };

const hex = (value: bigint | number, digits = 0) => `0x${value.toString(16).padStart(digits, '0')}`;

const KVM_INTERNAL_ERROR_EMULATION = 1;
const EMULATION_HINT =
  'KVM cannot emulate this instruction. Ordinary KVM runs nearly all code natively; some flavours (kvm-pvm) emulate all of ring 0, where int3, SSE and x87 instructions are not supported';

/** Registers and code of a vCPU that crashed, as far as they can be read. */
export interface CrashScene {
  readonly vcpu: number;
  readonly regs: StructOf<typeof Regs>;
  /** Bytes at RIP; empty if they cannot be read. */
  readonly code: Uint8Array;
}

/** Explains a fatal exit. */
export function describeCrash(exit: VcpuExit, scene: CrashScene): Outcome {
  const where = [`vCPU ${scene.vcpu} at rip ${hex(scene.regs.rip, 16)}`, ...codeLine(exit, scene)];
  switch (exit.kind) {
    case 'shutdown':
      return crash(
        'the guest triple-faulted',
        where,
        'an exception occurred while delivering another: check the guest’s IDT, stack and page tables',
      );
    case 'internal-error':
      return describeInternalError(exit, where);
    case 'fail-entry':
      return crash(
        `the processor rejected the guest's state (reason ${hex(exit.reason)}, host CPU ${exit.cpu})`,
        where,
        'segment, control or MSR values are inconsistent: see the processor manual on VM entry checks',
      );
    default:
      return crash(
        `KVM stopped with an unexpected exit: ${exit.kind}`,
        where,
        'report this with the output of `--trace exit`',
      );
  }
}

function describeInternalError(exit: InternalErrorExit, where: readonly string[]): Outcome {
  const isEmulation = exit.suberror === KVM_INTERNAL_ERROR_EMULATION;
  const title = `KVM internal error, suberror ${exit.suberror}${isEmulation ? ' (emulation failure)' : ''}`;
  const words =
    exit.data.length === 0 || isEmulation ? [] : [`data ${exit.data.map((word) => hex(word)).join(' ')}`];
  return crash(
    title,
    [...where, ...words],
    isEmulation ? EMULATION_HINT : 'the host kernel log may say more (dmesg)',
  );
}

function codeLine(exit: VcpuExit, { code }: CrashScene): string[] {
  const told = exit.kind === 'internal-error' && exit.instruction.length > 0 ? exit.instruction : code;
  if (told.length === 0) return ['instruction bytes could not be read'];
  return [`instruction bytes ${Array.from(told, (byte) => byte.toString(16).padStart(2, '0')).join(' ')}`];
}

const crash = (title: string, details: readonly string[], hint: string): Outcome => ({
  kind: 'crashed',
  title,
  details,
  hint,
});

/** 128 + the signal's number, as in a shell. */
export const SIGNAL_STATUS = { SIGHUP: 129, SIGINT: 130, SIGPIPE: 141, SIGTERM: 143 } as const;

export const isSignalStatus = (status: number): boolean =>
  Object.values<number>(SIGNAL_STATUS).includes(status);

/** From sysexits.h: the host lacks something. */
export const EX_UNAVAILABLE = 69;

/** The exit status for a process that ran this machine. */
export function exitStatus(outcome: Outcome): number {
  switch (outcome.kind) {
    case 'verdict':
      return outcome.status;
    case 'stopped':
      return Object.entries(SIGNAL_STATUS).find(([signal]) => signal === outcome.by)?.[1] ?? 0;
    case 'moved':
    case 'powered-off':
    case 'reset':
      return 0;
    case 'crashed':
      return 70; // EX_SOFTWARE in sysexits.h
  }
}
