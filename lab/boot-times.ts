/** Phases of a boot, in seconds, as L1's kernel saw them. @see boot-times in lab/l1/commands.sh */
export interface BootTimes {
  /** From the start of the VMM's process to the opening of its first VFIO group. */
  readonly opened: number;
  /** From there to the first run of a vCPU. */
  readonly attached: number;
  /** From there to the guest's first program. */
  readonly guest: number;
  /** The sum of these. */
  readonly all: number;
  /** Peak memory of the VMM, MiB. */
  readonly resident: number;
}

/** @throws Error if a moment is missing */
export function parseBootTimes(output: string): BootTimes {
  const at = (what: string): number => {
    const [, time] = new RegExp(`^LAB-BOOT ${what} ([\\d.]+)`, 'm').exec(output) ?? [];
    if (time === undefined) throw new Error(`L1's kernel saw no '${what}'\n${output}`);
    return Number(time);
  };
  const [, kilobytes] = /VmHWM:\s+(\d+) kB/.exec(output) ?? [];
  if (kilobytes === undefined) throw new Error(`the VMM had ended before its memory was read\n${output}`);
  const [start, group, run, userspace] = [at('start'), at('group'), at('run'), at('userspace')];
  return {
    opened: group - start,
    attached: run - group,
    guest: userspace - run,
    all: userspace - start,
    resident: Number(kilobytes) / 1024,
  };
}
