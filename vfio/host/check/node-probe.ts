import { accessSync, constants, statSync } from 'node:fs';
import { userInfo } from 'node:os';
import type { DeviceNumber } from '../system.js';
import { deviceNumberOf } from '../system.js';

/** Looks at device files without opening them: an open can disturb who uses them. Tests replace it. */
export interface NodeProbe {
  /** Name of the errno with which this user's open for reading and writing would fail; undefined if it would not. */
  access(path: string): string | undefined;
  /** Undefined if there is no such file, or if it is no device. */
  deviceNumber(path: string): DeviceNumber | undefined;
  /** Who needs rights, as chown takes it; undefined for root. */
  readonly user: string | undefined;
}

export const nodeProbe: NodeProbe = {
  access(path) {
    try {
      accessSync(path, constants.R_OK | constants.W_OK);
      return undefined;
    } catch (error) {
      return (error as NodeJS.ErrnoException).code ?? 'EIO';
    }
  },
  deviceNumber(path) {
    try {
      const stats = statSync(path);
      return stats.isCharacterDevice() ? deviceNumberOf(stats.rdev) : undefined;
    } catch {
      return undefined;
    }
  },
  get user() {
    return process.geteuid?.() === 0 ? undefined : userName();
  },
};

/** A name, or the number of a user without one. */
function userName(): string {
  try {
    return userInfo().username;
  } catch {
    return String(process.geteuid?.());
  }
}
