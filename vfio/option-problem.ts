import { SysError } from '../sys/error.js';
import { didYouMean, expected } from '../sys/suggestion.js';

/** The hint of the EINVAL that parsing options throws; undefined if it throws none. */
export function optionProblem(parse: () => unknown): string | undefined {
  try {
    parse();
    return undefined;
  } catch (error) {
    if (error instanceof SysError && error.code === 'EINVAL') return error.hint ?? error.message;
    throw error;
  }
}

/** The problem with an option that a device lacks. @param known names of those that it has */
export const unknownOption = (name: string, known: readonly string[]): string =>
  `unknown option ${name}${expected(name, known, `${known.join('=, ')}=`)}`;

/**
 * The problem with options that a provider lacks.
 * @param known its options, with what each means
 * @returns undefined if it has them all
 */
export function unknownOptions(
  names: readonly string[],
  known: Readonly<Record<string, string>>,
): string | undefined {
  const unknown = names.filter((name) => !Object.hasOwn(known, name));
  if (unknown.length === 0) return undefined;
  const meant = unknown.map((name) => didYouMean(name, Object.keys(known))).find((text) => text !== '');
  const list = Object.entries(known).map(([name, meaning]) => `\n    ${name}: ${meaning}`);
  return `there is no option ${unknown.join(', ')}${meant === undefined ? '; there' : `${meant} There`} are:${list.join('')}`;
}
