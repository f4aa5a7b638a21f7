/** Arguments that several commands take. */
import { nearestPciAddress, pciAddress } from '../vfio/addresses.js';
import { type ParsedOptions, usageError } from './command-line.js';

/** The only argument of a command. @throws ConfigError if there is none, or another one */
export function oneArgument(command: string, { positionals }: ParsedOptions, what: string): string {
  const [first, second] = positionals;
  if (first === undefined || first === '')
    throw usageError(command, `${what} is missing: see tsvisor ${command} --help`);
  if (second !== undefined) throw usageError(`'${second}'`, `${command} takes one argument, ${what}`);
  return first;
}

/** @throws ConfigError if a command without arguments got one */
export function noArgument(command: string, { positionals: [first] }: ParsedOptions): void {
  if (first !== undefined) throw usageError(`'${first}'`, `${command} takes no argument`);
}

/** A PCI address in full form. @throws ConfigError if `text` is none */
export function addressArgument(text: string): string {
  const address = pciAddress(text);
  if (address !== undefined) return address;
  const meant = nearestPciAddress(text);
  const sentence = 'is not a PCI address';
  throw usageError(
    `'${text}'`,
    meant === undefined ? `${sentence}, such as 0000:01:00.0` : `${sentence}; did you mean ${meant}?`,
  );
}
