/** What a check finds, as data that can be printed and sent as JSON. */

/**
 * `ok`: it is as it has to be. `warning`: it works, with a loss that is named. `fails`: the assignment cannot work.
 * `unknown`: this user, or this kernel, does not show it.
 */
export type CheckVerdict = 'ok' | 'warning' | 'fails' | 'unknown';

/** Names of the rules, in the order in which they are reported. */
export type CheckRuleName =
  | 'kvm'
  | 'interface'
  | 'memory-lock'
  | 'interrupt-remapping'
  | 'device'
  | 'iommu'
  | 'driver'
  | 'vf-token'
  | 'sr-iov'
  | 'power-state'
  | 'reset'
  | 'viability'
  | 'direct-mapping'
  | 'reserved-ranges'
  | 'in-use'
  | 'nodes'
  | 'peers';

/** Something that a rule has looked at. */
export interface CheckEvidence {
  /** A file's path, or a call. */
  readonly source: string;
  /** Its content, or its answer. */
  readonly said: string;
}

/** What one rule found. */
export interface CheckFinding {
  /** Whether it keeps a device from being assigned. */
  readonly verdict: CheckVerdict;
  /** What is the case, in one sentence without a full stop. */
  readonly text: string;
  /** Why it matters; undefined if all is well. */
  readonly why?: string | undefined;
  /** What the verdict follows from. */
  readonly evidence: readonly CheckEvidence[];
  /** Lines for a root shell that mend it, in order; empty if no command does, or nothing has to be mended. */
  readonly commands: readonly string[];
  /** What has to be done besides, or instead where no command mends it. */
  readonly advice?: string | undefined;
}

/** What one rule found about one subject. */
export interface CheckResult extends CheckFinding {
  /** The rule's name, as docs/checks.md lists it. */
  readonly rule: CheckRuleName;
  /** A device's address, `group 26`, or `host`. */
  readonly subject: string;
}

/** What all rules found. */
export interface CheckReport {
  /** `fails` if a rule fails; else `warning` if one warns; else `ok`. An `unknown` changes nothing. */
  readonly verdict: Exclude<CheckVerdict, 'unknown'>;
  /** The host's first, then each device's, then each group's. Rules that do not apply to a subject are left out. */
  readonly results: readonly CheckResult[];
}

/** The parts of a finding that it may lack. */
interface Details {
  readonly why?: string;
  readonly evidence?: readonly CheckEvidence[];
  readonly commands?: readonly string[];
  readonly advice?: string | undefined;
}

type Find = (text: string, details?: Details) => CheckFinding;

export const ok: Find = (text, details) => finding('ok', text, details);
export const warning: Find = (text, details) => finding('warning', text, details);
export const fails: Find = (text, details) => finding('fails', text, details);
export const unknown: Find = (text, details) => finding('unknown', text, details);

function finding(verdict: CheckVerdict, text: string, details: Details = {}): CheckFinding {
  const { why, evidence = [], commands = [], advice } = details;
  return { verdict, text, why, evidence, commands, advice };
}
