import { didYouMean } from '../../sys/suggestion.js';

/**
 * The problem with an option that a back-end lacks.
 * @param item as it is written: `corupt=3`
 * @param known names of those that it has
 * @param shown the same for a person
 */
export function unknownItem(item: string, name: string, known: readonly string[], shown: string): string {
  const meant = didYouMean(name, known);
  return `unknown option ${JSON.stringify(item)}${meant === '' ? ': expected' : `${meant} Expected`} ${shown}`;
}
