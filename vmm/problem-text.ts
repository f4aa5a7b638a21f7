/** What is wrong with a value of the configuration, in this program's words: the validator's own name its types. */
import type * as z from 'zod/mini';
import { didYouMean } from '../sys/suggestion.js';

type RawIssue = Parameters<NonNullable<z.core.$ZodErrorMap>>[0];

const EXPECTED: Readonly<Record<string, string>> = {
  int: 'a whole number',
  number: 'a number',
  string: 'a text',
  boolean: 'true or false',
  array: 'a list',
  object: 'an object',
  record: 'an object',
};

const MOST_SHOWN = 40;

/** A value as the user wrote it: `'abc'`, `[]`. */
export function shown(value: unknown): string {
  if (typeof value === 'string') return `'${cut(value)}'`;
  if (typeof value === 'bigint' || typeof value === 'number' || value === undefined) return String(value);
  return cut(JSON.stringify(value) ?? typeof value);
}

const cut = (text: string) => (text.length > MOST_SHOWN ? `${text.slice(0, MOST_SHOWN)}…` : text);

/** The text of an issue; undefined for one that brings its own. */
export function problemText(issue: RawIssue): string | undefined {
  switch (issue.code) {
    case 'invalid_type': {
      if (issue.input === undefined) return 'is missing';
      return `${shown(issue.input)} is not ${EXPECTED[issue.expected] ?? issue.expected}`;
    }
    case 'too_small':
    case 'too_big':
      return sizeText(issue.input, issue.code === 'too_small' ? issue.minimum : issue.maximum, issue.code);
    case 'invalid_value': {
      const words = issue.values.map(String);
      const meant = typeof issue.input === 'string' ? didYouMean(issue.input, words) : '';
      return `${shown(issue.input)} is not ${words.length === 1 ? '' : 'one of '}${words.join(', ')}${meant}`;
    }
    case 'unrecognized_keys':
      return `there is no ${issue.keys.map(cut).join(', ')}`;
    case 'invalid_union':
      return `${shown(issue.input)} is of the wrong type`;
    default:
      return undefined;
  }
}

function sizeText(input: unknown, bound: number | bigint, code: 'too_small' | 'too_big'): string {
  if (input === '') return 'is empty';
  const side = code === 'too_small' ? 'least' : 'most';
  if (typeof input === 'string') return `has ${input.length} characters, and ${bound} is the ${side}`;
  if (Array.isArray(input)) return `has ${input.length} entries, and ${bound} is the ${side}`;
  return `${shown(input)} is too ${code === 'too_small' ? 'small' : 'large'}: ${bound} is the ${side}`;
}
