/** A plug-in cannot be used: it fails to load, or is not what `Plugin` describes. The message names it. */
export class PluginError extends Error {
  /** For matching: `EPLUGIN`. */
  readonly code = 'EPLUGIN';

  /** @param plugin path or name of the plug-in */
  constructor(plugin: string, problem: string, cause?: unknown) {
    super(`plug-in ${plugin}${problem}`, cause === undefined ? {} : { cause });
    this.name = 'PluginError';
  }
}

export const reasonOf = (error: unknown): string =>
  error instanceof Error ? error.message : `it throws ${String(error)}`;
