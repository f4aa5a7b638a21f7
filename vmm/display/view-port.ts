/** The option `--view [PORT]`. */
import { usageError } from '../command-line.js';
import type { View, Watched } from './view.js';

/** Parses `--view`; without a port, a free one. @throws ConfigError */
export function parsePort(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (text === '') return 0;
  if (/^\d{1,5}$/.test(text) && Number(text) < 65_536) return Number(text);
  throw usageError('--view', `'${text}' is not a TCP port: 0 to 65535`);
}

/**
 * Opens the page, if requested, and says its URL.
 * @throws SysError as View.start
 */
export async function openView(
  watched: Watched,
  port: number | undefined,
  say: (text: string) => void,
  slot?: number,
): Promise<View | undefined> {
  if (port === undefined) return undefined;
  const { View } = await import('./view.js'); // loaded here, as most runs never need it
  const view = await View.start(watched, { port, slot });
  say(`tsvisor: its page is at ${view.url}`);
  return view;
}
