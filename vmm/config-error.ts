/** The configuration is wrong; opens and creates nothing. Lists every problem with its place. */
export class ConfigError extends Error {
  readonly code = 'ECONFIG';
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

export interface ConfigProblem {
  /** `devices[0].slot` */
  readonly path: string;
  readonly text: string;
}
