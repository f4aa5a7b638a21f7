/** An invalid configuration. Lists every problem with its path; nothing has been opened or created. */
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

/** One problem of a configuration. */
export interface ConfigProblem {
  /** Path of the value: `devices[0].slot`. */
  readonly path: string;
  /** The problem, as readable text. */
  readonly text: string;
}
