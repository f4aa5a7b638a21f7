import { readFileSync, writeFileSync } from 'node:fs';
import { expect } from 'vitest';

const [BEGIN, END] = ['<!-- cases -->\n', '<!-- end of cases -->\n'] as const;

/**
 * Expects a page of docs/ to have a table between its marks.
 * @param page its file name
 * @param variable of the environment: if it is set, the table is written instead
 */
export function expectDocTable(page: string, table: string, variable: string): void {
  const path = new URL(`../../docs/${page}`, import.meta.url);
  const text = readFileSync(path, 'utf8');
  const [before = '', rest = ''] = text.split(BEGIN);
  const [, after = ''] = rest.split(END);
  const wanted = `${before}${BEGIN}${table}\n${END}${after}`;
  if (process.env[variable] !== undefined) writeFileSync(path, wanted);
  else expect(text).toBe(wanted);
}
