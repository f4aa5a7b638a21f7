/** A machine's configuration in a file: `--config`. */
import { ConfigError } from './config-error.js';
import { InputFileError, MOST_TEXT_BYTES, readInputFile } from './input-file.js';
import { shown } from './problem-text.js';

const BYTE_ORDER_MARK = '\ufeff';

/**
 * Reads a configuration; its values are not validated yet.
 * @throws ConfigError for a file that cannot be read, is not JSON, holds no object, or has a key twice
 */
export function readConfigFile(path: string): Readonly<Record<string, unknown>> {
  const wrong = (text: string) => new ConfigError([{ path: '--config', text }]);
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(readInputFile(path, MOST_TEXT_BYTES));
  } catch (error) {
    if (error instanceof TypeError) throw wrong(`${path} is not UTF-8 text`);
    throw error instanceof InputFileError ? wrong(error.message) : error;
  }
  if (text.startsWith(BYTE_ORDER_MARK)) text = text.slice(1);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw wrong(`${path} is not JSON: ${(error as Error).message}`);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw wrong(`${path} holds ${shown(value)}; a configuration is an object: { "memory": "1G" }`);
  const twice = duplicateKey(text);
  if (twice !== undefined) throw wrong(`${path} has the key ${twice} twice in one object`);
  return value as Readonly<Record<string, unknown>>;
}

/** JSON.parse lets the last of two equal keys win. @param text valid JSON @returns the first such key, as it is written */
function duplicateKey(text: string): string | undefined {
  const objects: (Set<string> | undefined)[] = [];
  let last = '';
  for (const [token] of text.matchAll(/"(?:[^"\\]|\\.)*"|[{}[\]:]/g)) {
    if (token === '{') objects.push(new Set());
    else if (token === '[') objects.push(undefined);
    else if (token === '}' || token === ']') objects.pop();
    else if (token === ':') {
      const keys = objects.at(-1);
      const key = JSON.parse(last) as string;
      if (keys?.has(key)) return last;
      keys?.add(key);
    }
    last = token;
  }
  return undefined;
}
