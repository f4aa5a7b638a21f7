import { SysError } from '../sys/error.js';

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
