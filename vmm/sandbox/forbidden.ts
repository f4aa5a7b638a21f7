/** What a sandbox keeps from a machine that runs in it. */
import { SysError } from '../../sys/error.js';
import type { DeviceConfig } from '../config.js';
import { ConfigError } from '../config-error.js';
import { needsOf } from './device-needs.js';

/** @throws ConfigError for devices that cannot be in a sandbox: they start programs, or write to sysfs */
export function checkAttachable(devices: readonly DeviceConfig[]): void {
  const { problems } = needsOf(devices);
  if (problems.length > 0) throw new ConfigError(problems);
}

/** An error that the sandbox may have caused says so: its hint is about the host. */
export function mayBeForbidden(error: unknown): unknown {
  if (!(error instanceof SysError) || !['EPERM', 'EACCES'].includes(error.code)) return error;
  const { call, target, errno, hint } = error;
  const sandbox = 'the sandbox forbids what the configuration does not name: see docs/sandbox.md';
  return new SysError({
    call,
    target,
    errno,
    hint: hint === undefined ? sandbox : `${hint}; or ${sandbox}`,
    cause: error,
  });
}
