/** `--view [PORT]` of the command line. */
import { ConfigError } from '../config-error.js';

/** `--view` may stand alone: then the port is a free one. */
export function withViewPort(args: readonly string[]): string[] {
  return args.flatMap((word, i) =>
    word === '--view' && !/^\d+$/.test(args[i + 1] ?? '') ? ['--view', '0'] : word,
  );
}

/** @throws ConfigError for what is no port */
export function parsePort(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (/^\d{1,5}$/.test(text) && Number(text) < 65_536) return Number(text);
  throw new ConfigError([{ path: '--view', text: `'${text}' is not a TCP port` }]);
}
