/** What a client's commands keep and break, by the name of a rule. */

/** Texts are kept once for each rule: what a client sends cannot make this grow. */
export class Audit {
  readonly #seen = new Set<string>();
  readonly #problems = new Map<string, string>();

  /** Something came that the rule is about. The first problem is the rule's. */
  check(rule: string, isKept: boolean, problem: () => string): boolean {
    this.#seen.add(rule);
    if (!isKept && !this.#problems.has(rule)) this.#problems.set(rule, problem());
    return isKept;
  }

  /** Whether anything was about the rule. */
  has(rule: string): boolean {
    return this.#seen.has(rule);
  }

  problem(rule: string): string | undefined {
    return this.#problems.get(rule);
  }
}
