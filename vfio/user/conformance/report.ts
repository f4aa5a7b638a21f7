/** What a run of the conformance suite of vfio-user finds out. */

/** `not applicable`: the peer or its device lacks what the rule is about, or the rule could not be tried. */
export type VfioUserVerdict = 'passed' | 'failed' | 'not applicable';

/** A rule of the protocol, and what a peer made of it. All texts are for people, in one line. */
export interface VfioUserRuleResult {
  /** Name of the rule, in kebab-case; it stays the same across releases. */
  readonly name: string;
  /** Heading in the specification, QEMU's docs/interop/vfio-user.rst, under which the rule stands. */
  readonly section: string;
  /** What was sent to the peer. */
  readonly sent: string;
  /** What the specification has it do then. */
  readonly expected: string;
  /** What it did; for a rule that is not applicable, the reason. */
  readonly got: string;
  /** Whether that was what was expected. */
  readonly verdict: VfioUserVerdict;
}

/** All rules, in the order in which they were played. */
export interface VfioUserConformance {
  /** One for each rule that was asked for. */
  readonly results: readonly VfioUserRuleResult[];
  /**
   * Why the rules after some point were not tried: the peer does not agree on a version, cannot be reached any more, or no
   * longer says anything. Those rules are `not applicable`. Undefined if all were tried.
   */
  readonly ended: string | undefined;
}

/** The outcome of one rule. */
export interface Outcome {
  readonly verdict: VfioUserVerdict;
  readonly got: string;
}

/** The result of a rule. */
export const resultOf = (
  { name, section, sent, expected }: Pick<VfioUserRuleResult, 'name' | 'section' | 'sent' | 'expected'>,
  { verdict, got }: Outcome,
): VfioUserRuleResult => ({ name, section, sent, expected, got, verdict });

/** @throws RangeError if one of the names that are asked for is none of the rules' */
export function requireRules(only: readonly string[] | undefined, rules: readonly string[]): void {
  const unknown = only?.find((name) => !rules.includes(name));
  if (unknown !== undefined) throw new RangeError(`there is no rule ${unknown}`);
}

export const passed = (got: string): Outcome => ({ verdict: 'passed', got });
export const failed = (got: string): Outcome => ({ verdict: 'failed', got });
export const inapplicable = (got: string): Outcome => ({ verdict: 'not applicable', got });
