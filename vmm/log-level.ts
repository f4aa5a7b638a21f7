/** The options `--log-level` and `--quiet`. */
import { didYouMean } from '../sys/suggestion.js';
import { type ParsedOptions, usageError } from './command-line.js';
import { shown } from './problem-text.js';

export const LOG_LEVELS = ['error', 'warn', 'info', 'debug'] as const;
/** The least important of what is printed. */
export type LogLevel = (typeof LOG_LEVELS)[number];

/** Channels that `debug` adds to `--trace`. */
export const DEBUG_CHANNELS = ['vfio', 'vfioUser', 'door'] as const;

/** Whether a message of level `of` is printed at `level`. */
export const isPrinted = (of: LogLevel, level: LogLevel): boolean =>
  LOG_LEVELS.indexOf(of) <= LOG_LEVELS.indexOf(level);

/** What the options say; undefined if they say nothing. @throws ConfigError for no level, or for both options */
export function givenLevel(options: ParsedOptions): LogLevel | undefined {
  const level = parseLogLevel(options.value('log-level'));
  if (!options.has('quiet')) return level;
  if (level !== undefined) throw usageError('--quiet', 'is --log-level error: give one of the two');
  return 'error';
}

function parseLogLevel(text: string | undefined): LogLevel | undefined {
  const level = LOG_LEVELS.find((each) => each === text);
  if (level !== undefined || text === undefined) return level;
  const meant = didYouMean(text, LOG_LEVELS);
  throw usageError('--log-level', `${shown(text)} is not one of ${LOG_LEVELS.join(', ')}${meant}`);
}
