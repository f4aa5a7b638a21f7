/** The configuration is wrong; opens and creates nothing. Lists every problem with its place. */
export class ConfigError extends Error {
  /** For matching: `ECONFIG`. */
  readonly code = 'ECONFIG';
  /** Every problem found, in the order of the configuration. */
  readonly problems: readonly ConfigProblem[];

  constructor(problems: readonly ConfigProblem[]) {
    super(
      ['the configuration is not valid', ...problems.map(({ path, text }) => `  ${path}: ${text}`)].join(
        '\n',
      ),
    );
    this.name = 'ConfigError';
    this.problems = problems;
  }
}

/** One thing that is wrong with a configuration. */
export interface ConfigProblem {
  /** `devices[0].slot` */
  readonly path: string;
  /** What is wrong, for a person. */
  readonly text: string;
}
