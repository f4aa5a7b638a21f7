/** The option `--view [PORT]`. */
import { ConfigError } from '../config-error.js';
import type { View, Watched } from './view.js';

/** Allows `--view` without a port, which selects a free one. */
export function withViewPort(args: readonly string[]): string[] {
  return args.flatMap((word, i) =>
    word === '--view' && !/^\d+$/.test(args[i + 1] ?? '') ? ['--view', '0'] : word,
  );
}

/** @throws ConfigError for an invalid port */
export function parsePort(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (/^\d{1,5}$/.test(text) && Number(text) < 65_536) return Number(text);
  throw new ConfigError([{ path: '--view', text: `'${text}' is not a TCP port` }]);
}

/**
 * Opens the page, if requested, and prints its URL: on stderr if stdout is reserved for the guest or a report.
 * @throws SysError as View.start
 */
export async function openView(
  watched: Watched,
  port: number | undefined,
  isQuiet: boolean,
  slot?: number,
): Promise<View | undefined> {
  if (port === undefined) return undefined;
  const { View } = await import('./view.js'); // loaded here, as most runs never need it
  const view = await View.start(watched, { port, slot });
  (isQuiet ? console.error : console.log)(`tsvisor: its picture is at ${view.url}`);
  return view;
}
